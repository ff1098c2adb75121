#pragma once

// which operations ggml's backends have, without their devices: the functions with which the pinned llama.cpp decides it are compiled
// from its source, with what they ask of a device filled in here

#include "ggml.h"

#include <string>
#include <vector>

// an Apple or AMD GPU, as ggml_metal_device_init() would describe it
struct metal_chip {
    const char * name;

    bool has_simdgroup_reduction;
    bool has_simdgroup_mm;
    bool has_bfloat;
    bool has_tensor;
};

bool metal_has_op(const metal_chip & chip, const ggml_tensor * op);

// a kernel as ggml's Metal backend would begin it
struct metal_dispatch {
    std::string kernel;

    int grid[3];
    int threads[3];

    size_t n_mem; // threadgroup memory
};

// all kernels of a graph whose tensors have memory; the backend's own assertions hold or the process ends
std::vector<metal_dispatch> metal_encode(const metal_chip & chip, ggml_cgraph * gf);

// is there a kernel of that name in the source?
bool metal_has_kernel(const std::string & name);

// an NVIDIA GPU of any kind; attention is taken for granted
bool cuda_has_op(const ggml_tensor * op);

// a Vulkan device with buffers of at most so many bytes in a kernel; attention is taken for granted
bool vulkan_has_op(size_t n_buffer_max, const ggml_tensor * op);
