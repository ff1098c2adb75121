# Build ggml and libllama as shared libraries in ${CMAKE_BINARY_DIR}/lib, with native/ compiled into libllama.

set(BUILD_SHARED_LIBS ON)

set(capkv_programs OFF)
if(CAPKV_SERVER OR CAPKV_TOOLS OR CAPKV_LLAMA_TESTS)
    set(capkv_programs ON)
endif()

# what is built of llama.cpp; without the parts that would download something
set(LLAMA_BUILD_COMMON   ${capkv_programs}    CACHE BOOL "" FORCE)
set(LLAMA_BUILD_TOOLS    ${capkv_programs}    CACHE BOOL "" FORCE)
set(LLAMA_BUILD_SERVER   ${capkv_programs}    CACHE BOOL "" FORCE)
set(LLAMA_BUILD_TESTS    ${CAPKV_LLAMA_TESTS} CACHE BOOL "" FORCE)
set(LLAMA_BUILD_EXAMPLES OFF                  CACHE BOOL "" FORCE)
set(LLAMA_BUILD_APP      OFF                  CACHE BOOL "" FORCE)
set(LLAMA_BUILD_UI       OFF                  CACHE BOOL "" FORCE)
set(LLAMA_USE_PREBUILT_UI OFF                 CACHE BOOL "" FORCE)
set(LLAMA_OPENSSL        OFF                  CACHE BOOL "" FORCE)

# ggml's CPU backend once for each set of instructions; it and the other backends are opened at run time if they can run here
if(CAPKV_PORTABLE)
    set(GGML_NATIVE           OFF CACHE BOOL "" FORCE)
    set(GGML_BACKEND_DL       ON  CACHE BOOL "" FORCE)
    set(GGML_CPU_ALL_VARIANTS ON  CACHE BOOL "" FORCE)
endif()

# llama.cpp's build info would take the commit of this repository, which is wrong, and compiles files again at each commit
file(STRINGS ${CMAKE_SOURCE_DIR}/LLAMA_CPP_VERSION pin REGEX "^version=")
string(REPLACE "version=" "" pin "${pin}")
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_COMMIT "llama-cpp-python-${pin}")
set(GGML_BUILD_COMMIT  ${LLAMA_BUILD_COMMIT})
set(GIT_EXE            "")

add_subdirectory(${CAPKV_LLAMA_DIR} ${CMAKE_BINARY_DIR}/build-llama EXCLUDE_FROM_ALL)

add_custom_target(capkv ALL DEPENDS llama)

# at each build, since a commit or an edit configures nothing anew
add_custom_target(capkv-build-stamp ALL
    COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/build_stamp.py ${CMAKE_BINARY_DIR}/lib/capkv-build.json
    BYPRODUCTS ${CMAKE_BINARY_DIR}/lib/capkv-build.json)
add_dependencies(capkv capkv-build-stamp)

if(NOT CAPKV_UPSTREAM)
    file(GLOB native_sources CONFIGURE_DEPENDS
        ${CMAKE_SOURCE_DIR}/native/*.cpp ${CMAKE_SOURCE_DIR}/native/policies/*.cpp ${CMAKE_SOURCE_DIR}/native/kernels/*.cpp)
    target_sources(llama PRIVATE ${native_sources})
    target_link_libraries(llama PRIVATE ${CMAKE_DL_LIBS})  # capkv-load.cpp
    target_include_directories(llama
        PRIVATE ${CMAKE_SOURCE_DIR}/native
        PUBLIC  ${CMAKE_SOURCE_DIR}/native/include)
    # no unity build: an edit compiles one file
    set_source_files_properties(${native_sources} TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    if(capkv_programs)
        file(GLOB server_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/server/*.cpp)
        target_sources(server-context PRIVATE ${server_sources})
        target_include_directories(server-context PUBLIC ${CMAKE_SOURCE_DIR}/native/server)
    endif()
endif()

# append to ${result} the targets of the given types in a folder and in those below it
function(capkv_find_targets dir type result)
    get_property(found DIRECTORY ${dir} PROPERTY BUILDSYSTEM_TARGETS)
    set(all ${${result}})
    foreach(target ${found})
        get_target_property(is ${target} TYPE)
        if(is MATCHES "^(${type})$")
            list(APPEND all ${target})
        endif()
    endforeach()
    get_property(subdirs DIRECTORY ${dir} PROPERTY SUBDIRECTORIES)
    foreach(subdir ${subdirs})
        capkv_find_targets(${subdir} ${type} all)
    endforeach()
    set(${result} ${all} PARENT_SCOPE)
endfunction()

# plain names, since a wheel cannot hold the links of versioned ones; at run time each library looks for the others beside itself
capkv_find_targets(${CAPKV_LLAMA_DIR} "SHARED_LIBRARY|MODULE_LIBRARY" capkv_libraries)
foreach(target ${capkv_libraries})
    set_property(TARGET ${target} PROPERTY VERSION)
    set_property(TARGET ${target} PROPERTY SOVERSION)
    set_property(TARGET ${target} PROPERTY PUBLIC_HEADER)
    set_target_properties(${target} PROPERTIES
        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib
        INSTALL_RPATH            "$<IF:$<PLATFORM_ID:Darwin>,@loader_path,$ORIGIN>"
        BUILD_WITH_INSTALL_RPATH ON)
endforeach()
