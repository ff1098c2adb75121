#pragma once

// what llama-server has to know of a context's budget

#include "capkv.h"

#include <cstdio>
#include <string>

// the context has given each sequence a stream of its own: the server's parameters follow it, as if that had been asked for
// false if the context has no budget
template <typename params_t>
static inline bool capkv_settle(const llama_context * ctx, params_t & params) {
    capkv_params p;
    if (!capkv_get_params(ctx, &p)) {
        return false;
    }
    if (params.kv_unified) {
        params.kv_unified = false;
        params.n_ctx      = (int32_t) llama_n_ctx(ctx);
    }
    return true;
}

// one line for the log
static inline std::string capkv_describe(const llama_context * ctx) {
    capkv_params p;
    capkv_stats  st;
    if (!capkv_get_params(ctx, &p) || !capkv_get_stats(ctx, 0, &st)) {
        return "none";
    }
    char buf[256];
    snprintf(buf, sizeof(buf), "%u tokens kept (%s), %u slots with %u cells each for up to %u tokens, no shared cache, no shift",
            p.n_budget, p.policy, llama_n_seq_max(ctx), st.n_cells, llama_n_ctx_seq(ctx));
    return buf;
}

// false if [pos, end) of the sequence reaches into what was evicted, so that it cannot be removed: the text has to be read anew
static inline bool capkv_can_go_back(const llama_context * ctx, llama_seq_id seq_id, llama_pos pos) {
    capkv_params p;
    capkv_stats  st;
    return pos <= 0 || !capkv_get_params(ctx, &p) || !capkv_get_stats(ctx, seq_id, &st) || pos >= st.pos_tail;
}
