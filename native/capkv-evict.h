#pragma once

#include "capkv-observe.h"
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
    // capacities in nats, of the entries that an eviction kept and of all that were there
    struct capacity {
        double kept = 0.0;
        double all  = 0.0;

        float share() const { return all > 0.0 ? (float) (kept/all) : 1.0f; }
    };

    struct stream {
        uint64_t n_evicted   = 0;
        uint64_t n_evictions = 0;
        int64_t  t_evict_us  = 0;

        std::vector<capacity> cap; // per layer, at the last eviction
    };

    capkv_evictor(
            llama_kv_cache & kv, const capkv_params & params, const capkv_policy & policy, const std::vector<capkv_layer> & layers,
            capkv_positions & positions, capkv_observer & observer);

    void clear();

    void reset(uint32_t s);
    void copy (uint32_t s_src, uint32_t s_dst);
    void set  (uint32_t s, stream && st);

    const stream & get(uint32_t s) const { return streams[s]; }

    // no slot was found for these: evict from the streams that lack room at the next update
    void prepare_failed(const std::vector<llama_ubatch> & ubatches);

    // evict down to n_target entries at the next update
    void request(uint32_t s, uint32_t n_target);

    // before each update: reserve the work memory, if that was not done yet. Whether there is something to evict
    bool prepare(llama_context * lctx, bool optimize);

    // evict from the streams that prepare_failed() and request() named; false if an eviction failed
    //   drop: empties a sequence in all caches of the context; called where an eviction failed after cells had moved
    bool evict(llama_context * lctx, const std::function<void(llama_seq_id)> & drop);

    // how the evictions since the last call went
    ggml_status take_status();

    size_t n_bytes_work() const { return sched.n_bytes(); }

private:
    llama_kv_cache & kv;

    const capkv_params & params;
    const capkv_policy & policy;

    const std::vector<capkv_layer> & layers;

    capkv_positions & positions;
    capkv_observer  & observer;

    std::vector<stream>   streams;
    std::vector<uint32_t> targets; // [n_stream] entries to evict down to at the next update, 0 = leave

    ggml_status status = GGML_STATUS_SUCCESS; // of the evictions since take_status()

    capkv_sched sched;
    bool reserved = false; // reserve() was tried; until it ends, graphs count with all queries that may be observed

    // some layers, [beg, end)
    struct span {
        size_t beg;
        size_t end;
    };

    std::vector<int64_t> n_group; // [n_layers] KV heads that are scored together; reserve() sets it

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
        std::vector<std::vector<int32_t>> keep;  // [n_target, n_head_kv] entries that each head keeps, ascending
        std::vector<std::vector<float>>   w;     // [n_target, n_head_kv] their weights in the capacity
        std::vector<std::vector<float>>   ridge; // [2, n_head_kv]
        std::vector<capacity>             cap;

        bool moved = false; // cells are no longer what they were

        uint32_t n_target() const { return parts.n(); }
    };

    // of a group of heads
    struct score_out {
        size_t        ilayer;
        int64_t       head0;
        ggml_tensor * score; // F32 [n, n_heads]
        ggml_tensor * w;     // F32 [n, n_heads] weights of the capacity; NULL = 1/n
        ggml_tensor * cap;   // F32 [2, 1, n_heads] capacity and ridge
        float         eps;   // to be added to w
        int64_t       i0;    // first entry that counts
    };

    //
    // steps (capkv-evict.cpp)
    //

    // success: at most n_target entries are left; else the reason was logged, and either nothing has changed or, where the cells had
    // begun to move, the sequence is empty
    ggml_status evict(llama_context * lctx, uint32_t s, uint32_t n_target, const std::function<void(llama_seq_id)> & drop);

    plan make_plan(uint32_t s, uint32_t n_target) const;

    ggml_status select (llama_context * lctx, plan & p);
    ggml_status compact(llama_context * lctx, plan & p);
    void        account(plan & p);

    //
    // graphs (capkv-graph.cpp)
    //

    // divide the layers into graphs, make the scheduler and reserve the work memory; false if there is none
    bool reserve(llama_context * lctx);

    // measure how many heads can be scored together, for a plan of as many entries as there are cells
    void find_groups(const plan & p);

    // nodes that a graph has at most
    size_t n_nodes_scores (const span & part) const;
    size_t n_nodes_compact(const span & part) const;

    ggml_cgraph * build_scores (ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<score_out> & outs) const;
    ggml_cgraph * build_compact(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<ggml_tensor *> & caps) const;
};
