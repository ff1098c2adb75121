#pragma once

#include "capkv-params.h"
#include "capkv-positions.h"

#include <string>
#include <vector>

//
// capkv_pins: the tokens that no head drops, whatever their scores are
//
// A pin is a range of positions, which may begin or end ahead of the text: it counts for a token once that is read. Pinned entries stay
// in the middle like any others, so a pin changes neither where the tail begins nor what can be taken back. Beyond the sinks they are
// counted against the budget.
//

class capkv_pins {
public:
    struct range {
        llama_pos p0;
        llama_pos p1; // exclusive
    };

    using stream = std::vector<range>; // ascending, with positions in between that are not pinned

    capkv_pins(const capkv_params & params, const std::vector<capkv_layer> & layers, const capkv_positions & positions, uint32_t n_stream);

    void reset(uint32_t s);
    void copy (uint32_t s_src, uint32_t s_dst);
    void set  (uint32_t s, stream && st);

    const stream & get(uint32_t s) const { return streams[s]; }

    // throws capkv_error, and changes nothing, if the range is empty, if a head has dropped a token of it, or if too little of the budget
    // is left
    void pin(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1);

    // negative ends are open, as in llama.h
    void unpin(uint32_t s, llama_pos p0, llama_pos p1);

    // ends the pins of what a removal from the tail takes; called before it. What is ahead of the text stays pinned
    void forget(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1);

    // throws capkv_error if pins, sinks and recent window leave less than a quarter of n_budget to choose from
    void check_room(const llama_kv_cells & cells, uint32_t s, uint32_t n_budget) const;

    // for each entry of `order`, whether a KV head has to keep it; empty = nothing is pinned
    std::vector<bool> of_head(
            const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const capkv_layer & l, int64_t head_kv) const;

    // whether ranges that were read, of a saved state, are what a stream can hold
    static bool is_valid(const stream & st);

private:
    const capkv_params             & params;
    const std::vector<capkv_layer> & layers;
    const capkv_positions          & positions;

    std::vector<stream> streams;

    // parts of a range that are not pinned and that a head of a layer no longer holds
    stream lost(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1) const;

    // entries that `st` pins beyond the sinks: those that are there, and one for each position ahead
    uint64_t count(const llama_kv_cells & cells, uint32_t s, const stream & st) const;

    void check_room(const llama_kv_cells & cells, uint32_t s, const stream & st, uint32_t n_budget, const std::string & what) const;
};
