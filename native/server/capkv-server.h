#pragma once

// llama-server and a context with a budget: what its patched files call. Slots, tasks and answers are templates here, because the server
// declares most of them in a source file

#include "capkv-props.h"
#include "capkv-question.h"
#include "capkv-reread.h"
#include "capkv-slot-action.h"
#include "capkv-slot.h"
#include "capkv-system.h"

#include "capkv.h"
#include "server-task.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

// a context with a budget has given each sequence a stream of its own: set the server's parameters as if that had been asked for
// false, and nothing changes, if the context has no budget
template <typename params_t>
static inline bool capkv_adopt_streams(const llama_context * ctx, params_t & params) {
    if (!capkv_get_params(ctx, nullptr)) {
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
    if (!capkv_get_params(ctx, &p) || !capkv_get_counts(ctx, 0, &st)) {
        return "none";
    }
    char buf[256];
    const std::string length = capkv_is_endless(ctx) ? "a text without end" : "up to " + std::to_string(llama_n_ctx_seq(ctx)) + " tokens";

    snprintf(buf, sizeof(buf), "%u tokens kept (%s), %u slots with %u cells each for %s, no shared cache, no shift",
            p.n_budget, p.policy, llama_n_seq_max(ctx), st.n_cells, length.c_str());
    return buf;
}

// once the context is made: the above, and what /props says. Returns a line for the log, or "" without a budget
template <typename params_t>
static inline std::string capkv_loaded(const llama_context * ctx, params_t & params) {
    capkv_set_props(ctx, params.n_keep);
    return capkv_adopt_streams(ctx, params) ? capkv_describe(ctx) : "";
}

// false if [pos, end) of the sequence cannot be removed because it begins before the tail: the prompt has to be read from its start
static inline bool capkv_can_go_back(const llama_context * ctx, llama_seq_id seq_id, llama_pos pos) {
    capkv_stats st;
    return pos <= 0 || !capkv_get_params(ctx, nullptr) || !capkv_get_counts(ctx, seq_id, &st) || pos >= st.pos_tail;
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
            // of a template with a system message of its own, llama-server may take that for the way a message of the user begins
            return (int64_t) span.pos > add_bos ? span.pos : std::max<int64_t>(span.pos, task.params.kv_system);
        }
    }
    if (task.params.kv_system > 0) {
        return task.params.kv_system;
    }
    return goes_on ? -1 : task.n_tokens();
}

// pins those of the first n tokens of a slot's prompt that its request wants to keep, as many as the budget has room for; without such a
// wish, what is pinned stays so. False and capkv_last_error() if some of them are evicted
//   said: becomes a line for the log if there is no room for all
template <typename slot_t>
static inline bool capkv_pin_kept(llama_context * ctx, slot_t & slot, bool add_bos, int64_t n_past, int64_t n, std::string & said) {
    capkv_params p;
    const int64_t n_keep = capkv_n_keep(*slot.task, add_bos, n_past > 0);

    if (n_keep <= 0 || !capkv_get_params(ctx, &p)) {
        return true;
    }

    // a quarter of the budget has to be left to choose from; the sinks stay in any case
    const int64_t n_budget = slot.task->params.kv_budget > 0 ? slot.task->params.kv_budget : p.n_budget;
    const int64_t n_room   = std::max<int64_t>(p.n_sink, n_budget - p.n_recent - (n_budget + 3)/4);
    if (n_keep > n_room) {
        said = "n_keep asks for " + std::to_string(n_keep) + " tokens of the prompt: the budget of " + std::to_string(n_budget) +
            " has room for " + std::to_string(n_room) + ", the first of which are pinned";
    }

    const llama_pos end = slot.task->tokens.pos_next(std::min({ n_keep, n_room, n }));

    // what was pinned otherwise stays so
    if (end < slot.kv.n_keep_end && !capkv_unpin(ctx, slot.id, end, slot.kv.n_keep_end)) {
        return false;
    }
    slot.kv.n_keep_end = end;

    return end == 0 || capkv_pin(ctx, slot.id, 0, end);
}

// false if the first n_past tokens of a slot cannot be reused: the others cannot be removed because they begin before the tail, or some
// that are to be kept are evicted. The prompt has to be read from its start
template <typename slot_t>
static inline bool capkv_can_reuse(llama_context * ctx, slot_t & slot, int64_t n_past, bool add_bos) {
    std::string said;
    return capkv_can_go_back(ctx, slot.id, slot.prompt.tokens.pos_next(n_past)) && capkv_pin_kept(ctx, slot, add_bos, n_past, n_past, said);
}

// the question of a slot's request takes part in the evictions of its prompt, or none does. It is read behind the n_past tokens that are
// reused; those behind them, which the server removes next, would take its room. False and capkv_last_error() if it is refused
template <typename slot_t>
static inline bool capkv_begin_focus(llama_context * ctx, slot_t & slot, int n_past) {
    const auto & question = slot.task->params.kv_focus;
    if (question.empty()) {
        return capkv_unfocus(ctx, slot.id);
    }
    auto * mem = llama_get_memory(ctx);

    capkv_stats st;
    const bool ok =
        llama_memory_seq_rm(mem, slot.id, slot.prompt.tokens.pos_next(n_past), -1) && capkv_get_counts(ctx, slot.id, &st) &&
        (st.n_used + question.size() <= st.n_cells || capkv_compress(ctx, slot.id, slot.kv.get_budget()) >= 0) &&
        capkv_focus(ctx, slot.id, question.data(), question.size()) >= 0;

    slot.prompt.tokens.keep_first(llama_memory_seq_pos_max(mem, slot.id) < 0 ? 0 : n_past);
    return ok;
}

// a request starts, and the first n_past tokens of its slot are to be reused: n_past becomes what can be. False and capkv_last_error() if
// its kv_budget or kv_focus is refused
template <typename slot_t, typename metrics_t>
static inline bool capkv_begin(llama_context * ctx, slot_t & slot, int & n_past, bool add_bos, metrics_t & metrics) {
    if (!capkv_get_params(ctx, nullptr)) {
        return true;
    }

    const uint32_t n_budget = slot.task->params.kv_budget;
    if (n_budget > 0 && !capkv_can_compress(ctx, slot.id, n_budget)) {
        return false;
    }

    const size_t n_common = slot.prompt.tokens.get_common_prefix(slot.task->tokens);

    if (!capkv_can_reuse(ctx, slot, n_past, add_bos)) {
        n_past = 0;
        slot.prompt.checkpoints.clear();
    }
    if (n_past == 0) {
        slot.kv.n_keep_end = 0;
    }

    const auto list = [](const auto & tokens) {
        std::vector<int32_t> res(tokens.size());
        for (size_t i = 0; i < res.size(); ++i) {
            res[i] = tokens[i];
        }
        return res;
    };
    const size_t n_reread = (size_t) n_past < slot.prompt.tokens.size() ?
        capkv_count_reread(list(slot.prompt.tokens), list(slot.task->tokens), n_common, n_past) : 0;

    slot.kv.begin(ctx, slot.id, n_budget, n_reread);
    metrics.n_reread += n_reread;

    return capkv_begin_focus(ctx, slot, n_past);
}

// before a batch: evicts the slots whose request has a budget of its own, if the batch would take them past it. Brings what other
// threads read of all slots up to date
template <typename slots_t, typename batch_t, typename metrics_t>
static inline void capkv_before_batch(llama_context * ctx, slots_t & slots, const batch_t & batch, metrics_t & metrics) {
    if (!capkv_get_params(ctx, nullptr)) {
        return;
    }
    for (auto & slot : slots) {
        if (!slot.is_processing()) {
            slot.kv.refresh_idle(ctx, slot.id);
        }
        if (!slot.stats.is_set()) { // no request, or none that has begun
            continue;
        }
        capkv_stats st;

        const uint32_t n_max = slot.kv.n_cells_max(ctx);
        const uint32_t n_new = std::count_if(batch.tokens.begin(), batch.tokens.end(), [&](const auto & t) { return t.seq_id == slot.id; });

        if (n_max > 0 && n_new > 0 && capkv_get_counts(ctx, slot.id, &st) && st.n_used + n_new > n_max &&
                capkv_compress(ctx, slot.id, slot.kv.get_budget()) < 0) {
            SLT_WRN(slot, "kv_budget = %u: %s\n", slot.kv.get_budget(), capkv_last_error());
        }
        slot.kv.count(ctx, slot.id, metrics);
    }
}

// after a batch
template <typename slots_t, typename metrics_t>
static inline void capkv_after_batch(const llama_context * ctx, slots_t & slots, metrics_t & metrics) {
    for (auto & slot : slots) {
        if (slot.stats.is_set()) {
            slot.kv.count(ctx, slot.id, metrics);
        }
    }
}

// what /slots and /metrics say. While a batch is computed, as it was before it
template <typename slots_t, typename metrics_t>
static inline void capkv_look(const llama_context * ctx, slots_t & slots, metrics_t & metrics, bool is_computing) {
    capkv_params p;
    if (!is_computing && capkv_get_params(ctx, &p)) {
        metrics.n_budget = p.n_budget;
        for (auto & slot : slots) {
            slot.kv.refresh(ctx, slot.id);
        }
    }
    metrics.reset_gauges();
    for (const auto & slot : slots) {
        slot.kv.add_to(metrics);
    }
}

// the object `kv` of an answer
template <typename slot_t, typename metrics_t>
static inline json capkv_answer(const llama_context * ctx, slot_t & slot, metrics_t & metrics) {
    slot.kv.count(ctx, slot.id, metrics);
    slot.kv.refresh(ctx, slot.id);

    return slot.kv.to_json_request(slot.id);
}

// adds `kv` to an answer in any of the server's formats: an object, or a list of chunks, the last of which has it. `fields` are those that
// the request wants, none = all
static inline json capkv_add_kv(json && answer, json && kv, const std::vector<std::string> & fields) {
    if (!fields.empty() && std::find(fields.begin(), fields.end(), "kv") == fields.end()) {
        return std::move(answer);
    }
    json & last = answer.is_array() ? answer.back() : answer;

    (last.contains("event") && last.contains("data") ? last.at("data") : last)["kv"] = std::move(kv);

    return std::move(answer);
}

// pins what a slot's request wants to keep of its prompt, before the first batch of it is read. Returns a line for the log, or ""
template <typename slot_t>
static inline std::string capkv_keep(llama_context * ctx, slot_t & slot, bool add_bos) {
    std::string said;
    if ((uint64_t) slot.prompt.n_tokens() == slot.stats.n_prompt_cached &&
            !capkv_pin_kept(ctx, slot, add_bos, slot.stats.n_prompt_cached, slot.task->n_tokens(), said)) {
        said = std::string("n_keep: nothing is pinned: ") + capkv_last_error();
    }
    return said;
}

// what an action on a slot answers
struct capkv_slot_result : server_task_result {
    json data;

    json to_json() override { return data; }
};

// runs the action of a task, between batches
template <typename slots_t>
static inline server_task_result_ptr capkv_run_task(llama_context * ctx, const server_task & task, slots_t & slots) {
    try {
        const int id = task.slot_action.id_slot;
        if (id >= (int) slots.size()) {
            throw std::invalid_argument("slot = " + std::to_string(id) + ": allowed is 0 to " + std::to_string(slots.size() - 1));
        }

        const auto & tokens = slots[id].prompt.tokens;

        std::vector<std::string> pieces(tokens.size());
        std::vector<llama_pos>   pos   (tokens.size());
        for (size_t i = 0; i < tokens.size(); ++i) {
            pieces[i] = tokens[i] == LLAMA_TOKEN_NULL ? "" : common_token_to_piece(ctx, tokens[i], true);
            pos   [i] = tokens.has_mtmd ? tokens.pos_next(i) : (llama_pos) i;
        }

        auto res = std::make_unique<capkv_slot_result>();
        res->id   = task.id;
        res->data = capkv_run_slot_action(ctx, id, task.kv_action, pieces, pos);
        return res;
    } catch (const std::exception & err) {
        auto res = std::make_unique<server_task_result_error>();
        res->id       = task.id;
        res->err_type = ERROR_TYPE_INVALID_REQUEST;
        res->err_msg  = err.what();
        return res;
    }
}

// whether a task that was just processed has used a slot without occupying it: the next of the deferred tasks can have its turn, for no
// release of a slot will give it one
template <typename slots_t>
static inline bool capkv_leaves_slot_free(const server_task & task, const slots_t & slots) {
    const bool is_action = task.type == SERVER_TASK_TYPE_SLOT_SAVE || task.type == SERVER_TASK_TYPE_SLOT_RESTORE ||
        task.type == SERVER_TASK_TYPE_SLOT_ERASE;

    return is_action && !slots[(size_t) task.slot_action.id_slot % slots.size()].is_processing();
}

// answers GET /slots/N/kept, and POST /slots/N?action=pin or unpin: false if it is none of them
template <typename req_t, typename params_t, typename res_t>
static inline bool capkv_handle(const req_t & req, const params_t & params, res_t & res, bool is_get) {
    const std::string action = req.get_param("action");
    if (!is_get && action != "pin" && action != "unpin") {
        return false;
    }
    if (!params.endpoint_slots) {
        res.error(format_error_response("This server does not support slots endpoint. Start it with `--slots`", ERROR_TYPE_NOT_SUPPORTED));
        return true;
    }

    server_task task(SERVER_TASK_TYPE_SLOT_KV);
    try {
        task.slot_action.id_slot = capkv_parse_slot(req.get_param("id_slot"));
        if (is_get) {
            task.kv_action.what = capkv_slot_action::KEPT;
        } else {
            task.kv_action = capkv_parse_pin(action, req.body);
        }
    } catch (const std::exception & err) {
        res.error(format_error_response(err.what(), ERROR_TYPE_INVALID_REQUEST));
        return true;
    }
    task.id = res.rd.get_new_id();
    res.rd.post_task(std::move(task));

    const auto result = res.rd.next(req.should_stop);
    if (result && result->is_error()) {
        res.error(result->to_json());
    } else if (result) {
        res.ok(result->to_json());
    } // else the connection is closed
    return true;
}

// for a draft context that has no cells left for a batch: its slots share the cells, while with a budget each slot of the main context
// has cells of its own. Removes the longest sequence of the draft context, if possible one that is not in the batch: the next drafts
// for it are worse, the answers are the same. False if there is no sequence to remove, or no budget
template <typename batch_t>
static inline bool capkv_make_room(const llama_context * ctx_tgt, llama_context * ctx_dft, const batch_t & batch) {
    if (!ctx_dft || !capkv_get_params(ctx_tgt, nullptr)) {
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
