#pragma once

#include "policies/policy.h"

#include <map>

//
// the RoPE of a layer, as read from the graph of a batch
//

// what comes between the RoPE node and the attention
struct capkv_after_rope {
    float         scale  = 1.0f;
    ggml_tensor * factor = nullptr; // of each token or head
    ggml_tensor * norm   = nullptr; // the RMS norm
    ggml_tensor * weight = nullptr; // of the norm
};

// go back from what the attention gets to the RoPE node; NULL for a layer without one
ggml_tensor * capkv_find_rope(ggml_tensor * cur, capkv_after_rope & after);

// the parameters of such a node; off for NULL
capkv_rope capkv_read_rope(const ggml_tensor * node, const capkv_after_rope & after);

// RoPE of the keys, for each layer of a model that has K of its own, sliding windows included
class capkv_key_ropes {
public:
    // k_cur: as the attention gets it
    void see(ggml_tensor * k_cur, int il);

    // NULL if the layer was not seen
    const capkv_rope * find(int il) const;

private:
    std::map<int, capkv_rope> ropes;
};
