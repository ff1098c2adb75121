#pragma once

#include <cstdint>
#include <ostream>

// what /metrics says of the KV caches of all slots; n_slots = 0: there is no budget, and it says nothing
struct capkv_metrics {
    // as they are
    uint32_t n_slots  = 0;
    uint32_t n_budget = 0; // tokens kept per KV head, of one slot
    uint64_t n_cells  = 0;
    uint64_t n_used   = 0;
    uint64_t n_pinned = 0;

    double   capacity  = 0.0; // sum over the slots that have evicted
    uint32_t n_evicted_slots = 0;

    // since the start of the server
    uint64_t n_evictions = 0;
    uint64_t n_evicted   = 0; // tokens that each KV head of a slot has dropped
    uint64_t n_reread    = 0;
    int64_t  t_evict_us  = 0;

    // the figures above as of no slot
    void reset_gauges();

    // in the text format of Prometheus
    void write(std::ostream & out) const;
};
