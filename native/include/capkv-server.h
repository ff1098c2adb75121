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

// the tokens at the start of a prompt that a request wants to keep: its n_keep and a BOS token before them, or with -1 those before the
// first message of the user. Of a prompt without messages that is all of it; -1 if it goes on from one before
template <typename task_t>
static inline int64_t capkv_n_keep(const task_t & task, bool add_bos, bool goes_on) {
    const int64_t n_keep = task.params.n_keep;
    if (n_keep >= 0) {
        return std::min<int64_t>(n_keep > 0 ? n_keep + add_bos : 0, task.n_tokens());
    }
    for (const auto & span : task.params.message_spans.spans) {
        if (task.params.message_spans.is_user_start(span.pos)) {
            return span.pos;
        }
    }
    return goes_on ? -1 : task.n_tokens();
}

// pins those of the first n tokens of a slot's prompt that its request wants to keep, as many as the budget has room for; without such a
// wish, what is pinned stays so. False and capkv_last_error() if some of them are evicted
//   said: becomes a line for the log if there is no room for all
template <typename slot_t>
static inline bool capkv_pin_kept(llama_context * ctx, const slot_t & slot, bool add_bos, int64_t n_past, int64_t n, std::string & said) {
    capkv_params p;
    const int64_t n_keep = capkv_n_keep(*slot.task, add_bos, n_past > 0);

    if (n_keep <= 0 || !capkv_get_params(ctx, &p)) {
        return true;
    }

    // a quarter of the budget has to be left to choose from; the sinks stay in any case
    const int64_t n_room = std::max<int64_t>(p.n_sink, (int64_t) p.n_budget - p.n_recent - (p.n_budget + 3)/4);
    if (n_keep > n_room) {
        said = "n_keep asks for " + std::to_string(n_keep) + " tokens of the prompt: the budget of " + std::to_string(p.n_budget) +
            " has room for " + std::to_string(n_room) + ", the first of which are pinned";
    }

    const llama_pos end = slot.task->tokens.pos_next(std::min({ n_keep, n_room, n }));

    return capkv_unpin(ctx, slot.id, end, -1) && (end == 0 || capkv_pin(ctx, slot.id, 0, end));
}

// false if the first n_past tokens of a slot cannot be reused: the others cannot be removed because they begin before the tail, or some
// that are to be kept are evicted. The prompt has to be read from its start
template <typename slot_t>
static inline bool capkv_can_reuse(llama_context * ctx, const slot_t & slot, int64_t n_past, bool add_bos) {
    std::string said;
    return capkv_can_go_back(ctx, slot.id, slot.prompt.tokens.pos_next(n_past)) && capkv_pin_kept(ctx, slot, add_bos, n_past, n_past, said);
}

// pins what a slot's request wants to keep of its prompt, before the first batch of it is read. Returns a line for the log, or ""
template <typename slot_t>
static inline std::string capkv_keep(llama_context * ctx, const slot_t & slot, bool add_bos) {
    std::string said;
    if (slot.prompt.n_tokens() == slot.stats.n_prompt_cached &&
            !capkv_pin_kept(ctx, slot, add_bos, slot.stats.n_prompt_cached, slot.task->n_tokens(), said)) {
        said = std::string("n_keep: nothing is pinned: ") + capkv_last_error();
    }
    return said;
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
