# Target capkv-backend-rules, for tests: what ggml's backends for Metal, CUDA and Vulkan say of an operation, without their devices.
# The functions come from the pinned llama.cpp. One that it renamed fails the build with a text that says so.

set(rules_dir ${CMAKE_BINARY_DIR}/backend-rules)
set(ggml_dir  ${CAPKV_LLAMA_DIR}/ggml/src)

# out: a file in rules_dir with these functions of source
function(capkv_extract out source)
    add_custom_command(
        OUTPUT  ${rules_dir}/${out}
        COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/extract_functions.py ${ggml_dir}/${source} ${rules_dir}/${out} ${ARGN}
        DEPENDS ${ggml_dir}/${source} ${CMAKE_SOURCE_DIR}/cmake/extract_functions.py
        VERBATIM)
endfunction()

capkv_extract(metal-supports-op.inc  ggml-metal/ggml-metal-device.m ggml_metal_supports_mul_mat_op ggml_metal_device_supports_op)
capkv_extract(cuda-fwht.inc          ggml-cuda/fwht.cu              ggml_cuda_op_mul_mat_use_fwht)
capkv_extract(cuda-supports-op.inc   ggml-cuda/ggml-cuda.cu         ggml_backend_cuda_device_supports_op)
capkv_extract(vulkan-supports-op.inc ggml-vulkan/ggml-vulkan.cpp
    ggml_vk_dim01_contiguous vk_tensor_offset ggml_vk_concat_supported ggml_backend_vk_device_supports_op)

set(rules_sources metal.cpp cuda.cpp vulkan.cpp)
list(TRANSFORM rules_sources PREPEND ${CMAKE_SOURCE_DIR}/tests/native/backend-rules/)

set(metal_sources ops device common fusion tuning)
list(TRANSFORM metal_sources REPLACE "(.+)" "${ggml_dir}/ggml-metal/ggml-metal-\\1.cpp")

add_library(capkv-backend-rules STATIC EXCLUDE_FROM_ALL ${rules_sources} ${metal_sources}
    ${rules_dir}/metal-supports-op.inc ${rules_dir}/cuda-fwht.inc ${rules_dir}/cuda-supports-op.inc ${rules_dir}/vulkan-supports-op.inc)
target_compile_features(capkv-backend-rules PRIVATE cxx_std_17)
target_compile_definitions(capkv-backend-rules PRIVATE CAPKV_METAL_KERNELS="${ggml_dir}/ggml-metal/kernels")
target_include_directories(capkv-backend-rules PRIVATE ${rules_dir} ${ggml_dir})
target_link_libraries(capkv-backend-rules PUBLIC ggml-base)
