# Programs in ${CMAKE_BINARY_DIR}/bin: llama.cpp's tools, llama.cpp's tests, our tests. Each group has an option and a target.

set(programs_rpath "$<IF:$<PLATFORM_ID:Darwin>,@loader_path/../lib,$ORIGIN/../lib>")

if(CAPKV_SERVER)
    add_dependencies(capkv llama-server)
endif()

if(CAPKV_TOOLS)
    add_custom_target(capkv-tools DEPENDS llama-server llama-cli llama-bench llama-perplexity llama-completion)
    if(GGML_RPC)
        add_dependencies(capkv-tools ggml-rpc-server)
    endif()
endif()

if(CAPKV_LLAMA_TESTS)
    add_custom_target(capkv-llama-tests DEPENDS
        test-backend-ops test-batch-alloc test-llama-archs test-save-load-state test-state-restore-fragmented test-thread-safety)
endif()

if(capkv_programs)
    capkv_find_targets(${CAPKV_LLAMA_DIR} EXECUTABLE programs)
    set_target_properties(${programs} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin
        INSTALL_RPATH            "${programs_rpath}"
        BUILD_WITH_INSTALL_RPATH ON)
    # in the wheel it lies beside the libraries
    set_property(TARGET llama-server PROPERTY INSTALL_RPATH "$<IF:$<PLATFORM_ID:Darwin>,@loader_path,$ORIGIN>;${programs_rpath}")
endif()

# each tests/native/test-NAME.cpp is a program; ctest runs it in the repository's root
if(CAPKV_TESTS)
    enable_testing()
    add_custom_target(capkv-tests)
    file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/native/test-*.cpp)
    foreach(source ${tests})
        get_filename_component(name ${source} NAME_WE)
        add_executable(${name} EXCLUDE_FROM_ALL ${source})
        target_compile_features(${name} PRIVATE cxx_std_17)
        target_include_directories(${name} PRIVATE
            ${CMAKE_SOURCE_DIR}/native ${CMAKE_SOURCE_DIR}/tests/native ${CAPKV_LLAMA_DIR}/src ${CAPKV_LLAMA_DIR}/vendor)
        target_link_libraries(${name} PRIVATE llama)
        set_target_properties(${name} PROPERTIES
            RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin
            INSTALL_RPATH            "${programs_rpath}"
            BUILD_WITH_INSTALL_RPATH ON)
        add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
        set_tests_properties(${name} PROPERTIES LABELS capkv)
        add_dependencies(capkv-tests ${name})
    endforeach()

    include(cmake/backend_rules.cmake)
    target_link_libraries(test-capkv-backends PRIVATE capkv-backend-rules)
endif()
