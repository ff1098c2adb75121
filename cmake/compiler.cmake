# Find the compilers, say how to install one where there is none, and use ccache where it is installed.

include(CheckLanguage)
foreach(lang C CXX)
    check_language(${lang})
    if(NOT CMAKE_${lang}_COMPILER)
        unset(CMAKE_${lang}_COMPILER CACHE)  # look again next time
        message(FATAL_ERROR
            "  capkv: no working C and C++ compiler found. Install one and run the command again:\n"
            "  Debian, Ubuntu   apt install g++\n"
            "  Fedora           dnf install gcc-c++\n"
            "  macOS            xcode-select --install\n"
            "  Windows          Visual Studio Build Tools, with C++\n"
            "  or name one that is elsewhere with the environment variables CC and CXX.")
    endif()
endforeach()
enable_language(C)
enable_language(CXX)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "build type" FORCE)
endif()

# ccache sees paths relative to this folder, so all builds in it, and all clones of it, share what was compiled
option(GGML_CCACHE "use ccache if available" ON)
find_program(CAPKV_CCACHE ccache)
find_program(CAPKV_ENV env)
if(GGML_CCACHE AND CAPKV_CCACHE AND CAPKV_ENV)
    foreach(lang C CXX CUDA HIP)
        if(NOT CMAKE_${lang}_COMPILER_LAUNCHER)
            set(CMAKE_${lang}_COMPILER_LAUNCHER
                ${CAPKV_ENV} CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_SLOPPINESS=time_macros ${CAPKV_CCACHE})
        endif()
    endforeach()
endif()
