#pragma once

#include "capkv-ascending.h"
#include "capkv-kept.h"
#include "capkv-layer.h"

#include "llama-kv-cells.h"

#include <vector>

//
// capkv_positions: the position table
//
// Each sequence has a stream of its own, of the same number. Its cells, in the order of their positions:
//
//   [sinks][middle][tail]
//
// The sinks and the tail hold the same tokens in every head. In the middle, which is empty until the first eviction, each KV head of
// each layer holds tokens of its own: their true positions are in this table, and the positions of the cells themselves only keep the
// order. So a text can be taken back as far as the tail goes, or as a whole.
//
// Keys are rotated to RoPE positions. Those are the positions themselves until a compaction numbers the entries anew, from 0 on: from
// then on a token of the tail, and each one to come, has its position minus `offset`, and the entries before the tail have what the
// table says.
//

class capkv_positions {
public:
    struct stream {
        bool      evicted  = false;
        llama_pos pos_tail = 0; // first position of the tail; means nothing before the first eviction

        // cells of the sinks and of the middle, set by an eviction
        uint32_t n_sink = 0;
        uint32_t n_mid  = 0;

        std::vector<capkv_ascending> mid; // per layer [n_mid, n_head_kv]

        // RoPE positions; the vectors are empty until the entries are numbered anew
        bool      reindexed = false;
        llama_pos offset    = 0;

        std::vector<llama_pos>       sink_rope; // [n_sink]
        std::vector<capkv_ascending> mid_rope;  // per layer [n_mid, n_head_kv]

        // what a compaction left before the tail
        uint32_t n_front() const { return n_sink + n_mid; }
    };

    // what is left of a stream's cells after an eviction
    struct parts {
        uint32_t n_sink;
        uint32_t n_mid;
        uint32_t n_recent;

        bool reindex = false; // number the entries anew

        uint32_t n_front() const { return n_sink + n_mid; }
        uint32_t n()       const { return n_sink + n_mid + n_recent; }
    };

    // what a removal does to a sequence
    enum rm_kind {
        RM_NONE,    // nothing of it is in the range
        RM_TAIL,
        RM_WHOLE,
        RM_REFUSED, // the range reaches into the middle
    };

    capkv_positions(const std::vector<capkv_layer> & layers, uint32_t n_stream);

    void reset(uint32_t s);
    void copy (uint32_t s_src, uint32_t s_dst);
    void set  (uint32_t s, stream && st);

    const stream & get(uint32_t s) const { return streams[s]; }

    // first position of the tail; 0 = nothing was evicted
    llama_pos pos_tail(uint32_t s) const { return streams[s].evicted ? streams[s].pos_tail : 0; }

    // cells in use, in the order of their positions
    static std::vector<int32_t> order(const llama_kv_cells & cells);

    // true position of the token that a cell of stream s holds in a KV head
    llama_pos at(const llama_kv_cells & cells, uint32_t s, const capkv_layer & l, int64_t head_kv, uint32_t cell) const;

    // the position that its key is rotated to
    llama_pos rope_at(const llama_kv_cells & cells, uint32_t s, const capkv_layer & l, int64_t head_kv, uint32_t cell) const;

    // first position from which on every token is there, -1 if the stream is empty: llama.h promises that all of [pos_min, pos_max] is
    llama_pos pos_min(const llama_kv_cells & cells, uint32_t s) const;

    // negative ends are open, as in llama.h
    rm_kind kind_of_rm(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1) const;

    // whether every token of the range is there
    bool has_all(uint32_t s, llama_pos p0, llama_pos p1) const;

    // what a compaction of n entries down to n_target leaves: at most so many sinks and recent ones. What was taken back may have left
    // less of a tail. If all entries stay, so do the parts that they are in
    parts parts_of(uint32_t s, uint32_t n, uint32_t n_target, uint32_t n_sink, uint32_t n_recent) const;

    // the offset, if what p keeps of the entries is numbered anew: the first one after the middle comes right after it
    static llama_pos new_offset(const llama_kv_cells & cells, const std::vector<int32_t> & order, const parts & p);

    // What a compaction makes of a stream, in three steps, so that a long table is never there twice. First, all but the middle; pos_new
    // [p.n()] are the positions to give to the cells themselves
    stream compact(const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const parts & p, std::vector<llama_pos> & pos_new) const;

    // of a head: positions, and RoPE positions if `next` has any
    struct middle {
        std::vector<llama_pos> pos;  // [n_mid]
        std::vector<llama_pos> rope; // [n_mid]
    };

    // second, a head's middle
    //   next: what compact() returned
    //   kept: entries of `order` that the head keeps, [p.n()]
    middle compact_head(
            const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const parts & p,
            const stream & next, const capkv_layer & l, int64_t head_kv, const std::vector<int32_t> & kept) const;

    // last, the stream becomes `next`, with the middle of each layer; the cells are those from before the compaction
    //   keep: [n_layers]
    void set_compacted(
            const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const parts & p, stream && next,
            const std::vector<capkv_kept> & keep);

    // bytes of the table of stream s
    size_t n_bytes(uint32_t s) const;

private:
    const std::vector<capkv_layer> & layers;

    std::vector<stream> streams;
};
