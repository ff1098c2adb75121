#pragma once

#include <cstdint>
#include <vector>

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

// the layer of this index in the model; NULL if the budget does not govern it
static inline const capkv_layer * capkv_find_layer(const std::vector<capkv_layer> & layers, int32_t il) {
    for (const auto & l : layers) {
        if ((int32_t) l.il == il) {
            return &l;
        }
    }
    return nullptr;
}
