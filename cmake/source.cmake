# Make a patched llama.cpp in ${CAPKV_LLAMA_DIR}: llama_source.py gets the source, applies patches/series and proves each hook.

find_package(Python 3.10 QUIET COMPONENTS Interpreter)
if(NOT Python_Interpreter_FOUND)
    message(FATAL_ERROR "capkv: Python 3.10 or later not found. Install it, or name it with -DPython_EXECUTABLE=PATH.")
endif()

set(CAPKV_LLAMA_DIR ${CMAKE_BINARY_DIR}/llama.cpp)

if(DEFINED ENV{LLAMA_CPP_DIR})
    set(LLAMA_CPP_DIR "$ENV{LLAMA_CPP_DIR}" CACHE PATH "" FORCE)
endif()
set(args prepare ${CAPKV_LLAMA_DIR})
if(LLAMA_CPP_DIR)
    get_filename_component(source_dir "${LLAMA_CPP_DIR}" ABSOLUTE BASE_DIR ${CMAKE_SOURCE_DIR})
    list(APPEND args --source ${source_dir})
endif()
if(CAPKV_UPSTREAM)
    list(APPEND args --no-hooks)
endif()
if(CAPKV_CACHE_DIR)
    set(ENV{CAPKV_CACHE_DIR} "${CAPKV_CACHE_DIR}")
endif()

execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/llama_source.py ${args}
    OUTPUT_VARIABLE said OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE  wrong
    RESULT_VARIABLE result)
if(NOT result EQUAL 0)
    string(REPLACE "\n" "\n  " wrong "${wrong}")  # CMake would wrap lines that are not indented
    message(FATAL_ERROR "  ${wrong}")
endif()
message(STATUS "capkv: ${said}")

# a changed pin or patch configures again, which updates the tree
file(GLOB patches CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/patches/*.patch)
file(GLOB series  CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/patches/series)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${CMAKE_SOURCE_DIR}/LLAMA_CPP_VERSION ${CMAKE_SOURCE_DIR}/cmake/llama_source.py ${CMAKE_SOURCE_DIR}/cmake/patch_series.py
    ${patches} ${series})
