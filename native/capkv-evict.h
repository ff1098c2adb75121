#pragma once

#include "capkv-capacity.h"
#include "capkv-graph.h"
#include "capkv-observe.h"
#include "capkv-pins.h"
#include "capkv-positions.h"
#include "capkv-sched.h"

#include "llama-kv-cache.h"

#include <functional>
#include <vector>

//
// capkv_evictor: scores the entries of a stream, selects those that stay, and moves them to the first cells
//
// Evictions happen in the memory update, between batches: a batch attends to the cells that it was planned with. native/README.md draws
// the steps.
//

class capkv_evictor {
public:
    struct stream {
        uint64_t n_evicted   = 0;
        uint64_t n_evictions = 0;
        uint64_t n_reindexes = 0;

        int64_t t_evict_us   = 0; // the sum of
        int64_t t_score_us   = 0;
        int64_t t_select_us  = 0;
        int64_t t_compact_us = 0;

        llama_pos window_shift = 0; // what the keys of the sliding windows still have to be rotated by

        capkv_capacities cap; // at the last eviction
    };

    capkv_evictor(
            llama_kv_cache & kv, const capkv_params & params, const capkv_policy & policy, const std::vector<capkv_layer> & layers,
            capkv_positions & positions, const capkv_pins & pins, capkv_observer & observer, llama_pos n_pos_max);

    // once the graphs of batches were seen: whether the keys of all layers can be rotated to other positions
    //   kv_swa: the cache of the layers with sliding windows, or NULL
    bool find_key_ropes(llama_kv_cache * kv_swa);

    void clear();

    void reset(uint32_t s);
    void copy (uint32_t s_src, uint32_t s_dst);
    void set  (uint32_t s, stream && st);

    const stream & get(uint32_t s) const { return streams[s]; }

    // no slot was found for these: evict from the streams that lack room at the next update
    void prepare_failed(const std::vector<llama_ubatch> & ubatches);

    // false if a batch would be rotated past n_pos_max and its sequence can have lower RoPE positions: the next update makes them
    bool has_rope_positions(const std::vector<llama_ubatch> & ubatches);

    // evict down to n_target entries at the next update
    void request(uint32_t s, uint32_t n_target);

    // before each update: reserve the work memory, if that was not done yet. Whether there is something to evict
    bool prepare(llama_context * lctx, bool optimize);

    // evict from the streams that prepare_failed() and request() named; false if an eviction failed
    //   drop: empties a sequence in all caches of the context; called where an eviction failed after cells had moved
    bool evict(llama_context * lctx, const std::function<void(llama_seq_id)> & drop);

    // how the evictions since the last call went
    ggml_status take_status();

    // the score of each entry of a stream, by which an eviction would choose now: [n_head_kv of all layers, n]; throws capkv_error
    std::vector<float> scores(llama_context * lctx, uint32_t s);

    // a saved state of the sliding windows alone was read: it may come from before the entries of the other layers got new RoPE positions
    //   offset: that of the stream when it was saved
    void windows_read(uint32_t s, llama_pos offset);

    // rotate what was read so; not at once, because llama.cpp fills the tensors only after the state is parsed
    //   drop: empties a sequence in all caches of the context; called where that fails
    void shift_windows_read(llama_context * lctx, const std::function<void(llama_seq_id)> & drop);

    size_t n_bytes_work() const { return sched.n_bytes(); }
    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const { return sched.memory_breakdown(); }

private:
    llama_kv_cache & kv;

    const capkv_params & params;
    const capkv_policy & policy;

    const std::vector<capkv_layer> & layers;

    capkv_positions  & positions;
    const capkv_pins & pins;
    capkv_observer   & observer;

    const llama_pos n_pos_max; // RoPE positions end here

    llama_kv_cache * kv_swa      = nullptr;
    bool             can_reindex = false;

    // what the next update does to a stream
    struct target {
        uint32_t n       = 0;     // entries to evict down to, 0 = leave
        bool     reindex = false; // give the entries new RoPE positions, even if there is nothing to evict
    };

    std::vector<stream> streams;
    std::vector<target> targets; // [n_stream]

    ggml_status status = GGML_STATUS_SUCCESS; // of the evictions since take_status()

    capkv_sched sched;
    bool reserved = false; // reserve() was tried; until it ends, graphs count with all queries that may be observed

    // some layers, [beg, end)
    struct span {
        size_t beg;
        size_t end;

        // of the graph that was computed last, where the caches are on a device: CUDA replays a graph whose tensors are what and where they
        // were, in a third of the time
        std::unique_ptr<capkv_graph_meta> meta = nullptr;
    };

    // [n_layers] what is computed together; reserve() sets it
    std::vector<int64_t> n_group;         // KV heads of the layer that are scored together
    std::vector<int64_t> n_group_compact; // KV heads that are moved together
    std::vector<int64_t> n_tile;          // entries that the graph takes at once, of scores and of sums
    std::vector<size_t>  n_merge;         // layers that are scored together, this and those after it

    // the layers that one graph computes
    std::vector<span> spans_scores;
    std::vector<span> spans_compact;

    // what an eviction of stream s does
    struct plan {
        uint32_t             s;
        llama_seq_id         seq_id;
        std::vector<int32_t> order; // cells in use, in the order of their positions: the entries

        capkv_positions::parts parts; // of what is kept

        // per layer
        std::vector<capkv_kept>          keep;
        std::vector<std::vector<float>>  w_dropped; // [n_dropped, n_head_kv] weights in the capacity of the entries that are not kept
        std::vector<capkv_capacity_sums> sums;

        // what the compaction makes of the stream, and the positions of the cells: set once `keep` is
        capkv_positions::stream next;
        std::vector<llama_pos>  pos; // [n_target]

        bool moved = false; // cells are no longer what they were

        // of the graphs alone
        int64_t t_scores_us  = 0;
        int64_t t_compact_us = 0;

        uint32_t n_target()  const { return parts.n(); }
        uint32_t n_dropped() const { return order.size() - n_target(); }
        bool     evicts()   const { return n_target() < order.size(); } // else the entries only get new RoPE positions
    };

    // of a group of heads
    struct score_out {
        size_t        ilayer;   // the first layer
        size_t        n_layers;
        int64_t       head0;    // the first head of each
        ggml_tensor * score;    // F32 [n, n_heads*n_layers]
        ggml_tensor * w;        // F32 [n, n_heads*n_layers] weights of the capacity; NULL = 1/n
        ggml_tensor * sum;      // F32 [d_v, d_v, n_heads*n_layers] the sum that the capacity of all entries is computed from

        capkv_weights weights; // what is said of w
    };

    //
    // steps (capkv-evict.cpp)
    //

    // success: at most n_target entries are left; else the reason was logged, and either nothing has changed or, where the cells had
    // begun to move, the sequence is empty
    ggml_status evict(llama_context * lctx, uint32_t s, const target & t, const std::function<void(llama_seq_id)> & drop);

    plan make_plan(uint32_t s, uint32_t n_target) const;

    ggml_status select (llama_context * lctx, plan & p);
    void        keep_all(plan & p) const;
    ggml_status compact(llama_context * lctx, plan & p);
    void        account(plan & p);

    //
    // scores (capkv-evict-scores.cpp)
    //

    // f takes those of each group of heads, and finds the tensors of score_out in the outputs
    ggml_status compute_scores(llama_context * lctx, plan & p, const std::function<void(const score_out &, const capkv_outputs &)> & f);

    //
    // work memory (capkv-reserve.cpp)
    //

    // divide the layers into graphs, make the scheduler and reserve the work memory; false if there is none
    bool reserve(llama_context * lctx);

    // measure how many heads, entries and layers can be taken together, for a plan of as many entries as there are cells
    void find_groups(const plan & p);

    // whether the same graph scores them
    bool are_alike(const capkv_layer & a, const capkv_layer & b) const;

    //
    // graphs (capkv-graph.cpp)
    //

    // whether the cells are in memory of the host
    bool on_host(const capkv_layer & l) const;
    bool on_host(const span & part) const;

    // build a graph of some layers and compute it: f builds it in a context of at most n_nodes
    ggml_status compute(llama_context * lctx, span & part, size_t n_nodes, capkv_outputs & outputs, const std::function<ggml_cgraph *(ggml_context *, capkv_inputs &)> & f);

    // nodes that a graph has at most
    //   n_group: [n_layers] KV heads of a layer that it takes together
    size_t n_nodes(const span & part, const std::vector<int64_t> & n_group) const;

    size_t n_nodes_scores (const span & part) const { return n_nodes(part, n_group); }
    size_t n_nodes_compact(const span & part) const { return n_nodes(part, n_group_compact); }

    ggml_cgraph * build_scores (ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<score_out> & outs) const;
    ggml_cgraph * build_compact(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<ggml_tensor *> & sums) const;

    // the Hadamard rotation that a cache stores a quantized K in, its own inverse; NULL if there is none
    static ggml_tensor * build_k_rot(ggml_context * ctx, capkv_inputs & inputs, const llama_kv_cache & kv);

    //
    // new RoPE positions (capkv-reindex.cpp)
    //

    // what a compaction rotates the keys of heads [h0, h0 + n_heads) of a layer by: [n_target, n_heads]
    std::vector<int32_t> key_shifts(const plan & p, const capkv_layer & l, int64_t h0, int64_t n_heads) const;

    // keys k: F32 [d_k, n_head, n], in the form that they are stored in, rotated by `shifts` [n] positions
    static ggml_tensor * build_key_shift(
            ggml_context * ctx, capkv_inputs & inputs, const capkv_rope & rope, ggml_tensor * k, ggml_tensor * k_rot, const std::vector<int32_t> & shifts);

    // idx: cells of kv_swa; part: some of its layers
    ggml_cgraph * build_window_shift(
            ggml_context * ctx, capkv_inputs & inputs, uint32_t s, const std::vector<int32_t> & idx, const span & part, llama_pos delta) const;

    // the graphs for all layers of kv_swa, one after the other, until f is false
    bool each_window_graph(
            uint32_t s, const std::vector<int32_t> & idx, llama_pos delta, const std::function<bool(ggml_cgraph *, const capkv_inputs &)> & f) const;

    // rotate the keys of kv_swa by so many positions; false if that failed
    bool shift_windows(llama_context * lctx, uint32_t s, llama_pos delta);

    bool reserve_windows(const std::function<bool(ggml_cgraph *, const capkv_inputs &)> & f) const;
};
