#pragma once

// llama-server and a context with a budget

#include "capkv.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

// a context with a budget has given each sequence a stream of its own: set the server's parameters as if that had been asked for
// false, and nothing changes, if the context has no budget
template <typename params_t>
static inline bool capkv_adopt_streams(const llama_context * ctx, params_t & params) {
    capkv_params p;
    if (!capkv_get_params(ctx, &p)) {
        return false;
    }
    if (params.kv_unified) {
        params.kv_unified = false;
        if (!capkv_is_endless(ctx)) {
            params.n_ctx = (int32_t) llama_n_ctx(ctx);
        }
    }
    return true;
}

// the longest that a slot may be for the model: the trained length, unless a text may be longer
static inline int32_t capkv_n_ctx_model(const llama_context * ctx) {
    return capkv_can_pass_trained(ctx) ? INT32_MAX : llama_model_n_ctx_train(llama_get_model(ctx));
}

// the tokens that a reply may have; -1 is no limit, which the end of a context sets otherwise. Without an end it is the trained length: a
// model that never ends its reply would occupy the slot for good
static inline int32_t capkv_n_predict(const llama_context * ctx, int32_t n_predict) {
    return n_predict == -1 && capkv_is_endless(ctx) ? llama_model_n_ctx_train(llama_get_model(ctx)) : n_predict;
}

// one line for the log
static inline std::string capkv_describe(const llama_context * ctx) {
    capkv_params p;
    capkv_stats  st;
    if (!capkv_get_params(ctx, &p) || !capkv_get_stats(ctx, 0, &st)) {
        return "none";
    }
    char buf[256];
    const std::string length = capkv_is_endless(ctx) ? "a text without end" : "up to " + std::to_string(llama_n_ctx_seq(ctx)) + " tokens";

    snprintf(buf, sizeof(buf), "%u tokens kept (%s), %u slots with %u cells each for %s, no shared cache, no shift",
            p.n_budget, p.policy, llama_n_seq_max(ctx), st.n_cells, length.c_str());
    return buf;
}

// false if [pos, end) of the sequence cannot be removed because it begins before the tail: the prompt has to be read from its start
static inline bool capkv_can_go_back(const llama_context * ctx, llama_seq_id seq_id, llama_pos pos) {
    capkv_params p;
    capkv_stats  st;
    return pos <= 0 || !capkv_get_params(ctx, &p) || !capkv_get_stats(ctx, seq_id, &st) || pos >= st.pos_tail;
}

// for a draft context that has no cells left for a batch: its slots share the cells, while with a budget each slot of the main context
// has cells of its own. Removes the longest sequence of the draft context, if possible one that is not in the batch: the next drafts
// for it are worse, the answers are the same. False if there is no sequence to remove, or no budget
template <typename batch_t>
static inline bool capkv_make_room(const llama_context * ctx_tgt, llama_context * ctx_dft, const batch_t & batch) {
    capkv_params p;
    if (!ctx_dft || !capkv_get_params(ctx_tgt, &p)) {
        return false;
    }

    auto * mem = llama_get_memory(ctx_dft);

    llama_seq_id longest = -1;
    std::pair<bool, llama_pos> longest_key; // idle, last position

    for (llama_seq_id id = 0; id < (llama_seq_id) llama_n_seq_max(ctx_dft); ++id) {
        const llama_pos pos  = llama_memory_seq_pos_max(mem, id);
        const bool      idle = std::none_of(batch.tokens.begin(), batch.tokens.end(), [&](const auto & t) { return t.seq_id == id; });

        if (pos >= 0 && (longest < 0 || std::make_pair(idle, pos) > longest_key)) {
            longest     = id;
            longest_key = { idle, pos };
        }
    }

    return longest >= 0 && llama_memory_seq_rm(mem, longest, -1, -1);
}
