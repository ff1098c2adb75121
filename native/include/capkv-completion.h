#pragma once

// llama-completion and a context with a budget

#include "capkv.h"

#include <algorithm>
#include <cstdint>
#include <fstream>

// without an end, llama.cpp's own limit of a batch is the trained length, and after an eviction there has to be room for it
static inline void capkv_limit_batch(const llama_context * ctx, int32_t & n_batch) {
    capkv_params p;
    capkv_stats  st;
    if (capkv_is_endless(ctx) && capkv_get_params(ctx, &p) && capkv_get_stats(ctx, 0, &st)) {
        n_batch = std::min({ n_batch, (int32_t) llama_n_batch(ctx), (int32_t) (st.n_cells - p.n_budget) });
    }
}

// the most tokens that a session file may have: n_ctx, without an end what the file has room for
static inline int32_t capkv_n_session(const llama_context * ctx, const char * path, int32_t n_ctx) {
    if (!capkv_is_endless(ctx)) {
        return n_ctx;
    }
    std::ifstream file(path, std::ios::binary | std::ios::ate);

    return (int32_t) std::min<int64_t>(n_ctx, std::max<int64_t>(0, file.tellg())/sizeof(llama_token));
}
