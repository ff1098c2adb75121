#pragma once

#include "capkv-metrics.h"

#include "capkv.h"
#include "json.h"

#include <vector>

// What a slot of llama-server holds, and what its cache did for the request that it answers. While a batch is computed, other threads
// may ask: they read this, and not the context
class capkv_slot {
public:
    // a request starts: nothing is counted yet. Reads the context
    //   n_budget: that of the request, 0 = the context's
    void begin(const llama_context * ctx, llama_seq_id id, uint32_t n_budget, uint64_t n_reread);

    // after a batch: what the cache has done since then belongs to the request. Reads the context
    void count(const llama_context * ctx, llama_seq_id id, capkv_metrics & metrics);

    // the figures as they are now, with the capacity and the pins. Reads the context
    void refresh(const llama_context * ctx, llama_seq_id id);

    // the same for a slot that answers no request, if its cache is another one than before: it may have been saved, restored or erased
    void refresh_idle(const llama_context * ctx, llama_seq_id id);

    void add_to(capkv_metrics & metrics) const;

    // what the cache may grow to before a batch, with the budget of the request: 0 = no limit but its cells
    uint32_t n_cells_max(const llama_context * ctx) const;

    uint32_t get_budget() const { return n_budget; }

    // the object `kv` of an answer; null without a budget
    common_json to_json_request(llama_seq_id id) const;

    // the same with the sums of the slot's text, for /slots
    common_json to_json_slot(llama_seq_id id) const;

    // positions [0, n_keep_end) are pinned by the request's n_keep
    llama_pos n_keep_end = 0;

private:
    bool on = false; // the context has a budget

    capkv_stats seen = {}; // counts up to here are taken into account
    capkv_stats now  = {};

    uint64_t n_tail   = 0;
    uint64_t n_pinned = 0;

    uint32_t n_budget = 0; // of the request

    // of the request
    uint64_t n_evictions = 0;
    uint64_t n_reread    = 0;
    int64_t  t_evict_us  = 0;

    // takes the counts over, not the capacity
    void set_counts(const llama_context * ctx, llama_seq_id id, const capkv_stats & st);

    common_json to_json(llama_seq_id id, uint64_t n_evictions, int64_t t_evict_us) const;
};

// the pinned ranges of the slot's text: their two ends, one range after the other
std::vector<int32_t> capkv_pin_ends(const llama_context * ctx, llama_seq_id id);

// tokens of the slot's text that are pinned
uint64_t capkv_count_pinned(const llama_context * ctx, llama_seq_id id);
