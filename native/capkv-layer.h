#pragma once

#include <cstdint>

// a layer that the budget governs
struct capkv_layer {
    uint32_t il;  // index in the model
    uint32_t ikv; // index in the llama_kv_cache
    uint32_t i;   // index among the layers that the budget governs

    int64_t n_head;
    int64_t n_head_kv;
    int64_t d_k;
    int64_t d_v;
};
