#pragma once

#include "capkv-params.h"
#include "policies/policy.h"

#include "llama-batch.h"
#include "llama-kv-cache.h"
#include "llama-memory.h"

#include <memory>
#include <string>
#include <vector>

struct llm_graph_context;

//
// capkv_cache: what a llama_kv_cache with a budget has beyond its cells
//
// The cells of a sequence (each sequence has a stream of its own), in the order of their positions:
//
//   [sinks][middle][tail]
//
// sinks and tail hold the same tokens in every head, as ever. In the middle, which is empty until the first eviction, each KV
// head of each layer holds tokens of its own: their true positions are in the position table, and the positions of the
// cells themselves only keep the order.
//
// Evictions happen in the memory update, between batches: the cells that a batch was planned with are the cells it attends to.
//

class capkv_cache {
public:
    // a KV head's share of a layer
    struct layer {
        uint32_t il;  // in the model
        uint32_t ikv; // in the cache
        uint32_t i;   // here

        int64_t n_head;
        int64_t n_head_kv;
        int64_t d_k;
        int64_t d_v;

        int64_t n_group = 0; // KV heads that are scored together; init_groups() sets it

        ggml_tensor * q_sum  = nullptr; // F32 [d_k*n_head, n_stream]
        ggml_tensor * q_cov  = nullptr; // F32 [d_k*d_k*n_head, n_stream] sum of outer products
        ggml_tensor * q_rows = nullptr; // obs.type [d_k*n_head, n_rows*n_stream + n_scratch] reservoir, then the last ones; scratch rows

        // as seen in the last graph
        bool       observed = false;
        capkv_rope rope;
        float      kq_scale = 0.0f;
    };

    struct slot {
        llama_pos pos; // -1 = free
        uint64_t  key; // res_key(pos)
    };

    struct capacity {
        double kept = 0.0;
        double all  = 0.0;

        float share() const { return all > 0.0 ? (float) (kept/all) : 1.0f; }
    };

    struct stream {
        bool      evicted  = false;
        llama_pos pos_tail = 0; // first position of the tail

        uint32_t n_sink = 0; // cells of the sinks; set by an eviction
        uint32_t n_mid  = 0; // cells of the middle

        // position table: per layer [n_mid, n_head_kv]
        std::vector<std::vector<llama_pos>> pos_mid;

        std::vector<slot> slots; // [n_rows] what q_rows holds
        uint64_t n_sum = 0;      // tokens in q_sum

        uint64_t n_evicted   = 0;
        uint64_t n_evictions = 0;
        int64_t  t_evict_us  = 0;

        // of the last eviction, per layer: capacity in nats, of what was kept and of what was there
        std::vector<capacity> cap;
    };

    capkv_cache(llama_kv_cache & kv, const capkv_params & params, uint32_t n_ctx_seq);
    ~capkv_cache();

    // the sequences were to share the cells of one context, before each got a stream of its own
    bool was_unified = false;

    //
    // llama_kv_cache calls these: each in the function of the same name
    //

    void clear();

    // the stream holds nothing any more
    void reset(uint32_t s);

    // false: the range reaches into the middle, everything stays as it is
    bool seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1);

    bool can_seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    void seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst);

    // whether a range is there in full
    bool can_seq_cp(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    // copy the query statistics; the pending part of seq_cp()
    void update(uint32_t s_src, uint32_t s_dst);

    llama_pos seq_pos_min(llama_seq_id seq_id, llama_pos pos_min) const;

    // the same for a memory with sliding windows, whose other cache is swa
    llama_pos seq_pos_min(const llama_kv_cache & swa, llama_seq_id seq_id) const;

    // no slot was found: remember which streams lack room
    void prepare_failed(const std::vector<llama_ubatch> & ubatches);

    // NULL if there is nothing to evict
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize);

    // the host's part comes first, the tensors last; a state is taken over once all of it was read
    void state_write_meta(llama_io_write_i & io, llama_seq_id seq_id) const;
    void state_write_data(llama_io_write_i & io, llama_seq_id seq_id) const;
    // a read that breaks off between the two leaves the sequence empty: keep what state_read_meta() returns until then
    struct state_guard {
        capkv_cache & cache;
        llama_seq_id  seq_id;

        ~state_guard();
    };

    std::unique_ptr<state_guard> state_read_meta(llama_io_read_i & io, llama_seq_id seq_id);

    void state_read_data(llama_io_read_i & io, llama_seq_id seq_id);

    // throws if cells of the sequence, or with -1 of all, could not have come about: the state was made up
    static void state_check(llama_memory_i * mem, llama_seq_id seq_id);

    //
    // observe: the graph of a batch calls these
    //

    // token i of the ubatch goes to row dst of q_rows
    struct observe_plan {
        struct item { int32_t i; int64_t dst; uint32_t s; slot new_slot; };

        std::vector<item>     rows;
        std::vector<float>    sum;   // [n_tokens, n_stream] 1 where a token counts
        std::vector<uint64_t> n_sum; // [n_stream] tokens that do
    };

    // nodes that build_observe() adds at most, for all layers
    uint32_t n_nodes_observe() const;

    // the rows of a graph: it serves every batch that takes no more. A decoded token of each sequence may take some; how many
    // differs from batch to batch, so for so few the number is a power of two, and what is left over goes to scratch rows
    size_t  pad_rows(size_t n) const;
    size_t  n_scratch() const;
    int64_t scratch_row(size_t i) const; // of q_rows

    observe_plan plan_observe  (const llama_ubatch & ubatch, bool warmup) const;
    void         commit_observe(const observe_plan & plan);

    // whether commit_observe() clears the sums of a sequence: its first tokens come
    bool clears_sums(const observe_plan & plan) const;

    void build_observe(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, float kq_scale, int il);

    //
    // evict
    //

    // success: at most n_target entries are left; else the reason was logged, and either nothing has changed or, where the
    // cells had begun to move, the sequence is empty
    ggml_status evict(llama_context * lctx, uint32_t s, uint32_t n_target);

    // evict what prepare_failed() and request() have asked for
    bool apply_update(llama_context * lctx);

    void request(llama_seq_id seq_id, uint32_t n_target);

    // how the evictions since the last call went
    ggml_status take_status();

    //
    // for the C API
    //

    const capkv_params & get_params() const { return params; }
    const std::vector<layer> & get_layers() const { return layers; }
    const stream & get_stream(llama_seq_id seq_id) const { return streams[seq_stream(seq_id)]; }

    uint32_t n_stream() const { return streams.size(); }
    uint32_t n_cells()  const;
    uint32_t n_used(llama_seq_id seq_id) const;

    void add_stats(llama_seq_id seq_id, capkv_stats & stats) const;

    std::vector<llama_pos> positions(llama_seq_id seq_id, const layer & l, int64_t head_kv) const;

private:
    llama_kv_cache & kv;

    const capkv_params   params;
    const capkv_policy & policy;
    capkv_observe        obs; // what of it fits the model
    const uint32_t       n_ctx_seq;

    std::vector<layer>  layers;
    std::vector<stream> streams;

    std::vector<uint32_t> targets; // [n_stream] entries to evict down to at the next update, 0 = leave

    ggml_status status = GGML_STATUS_SUCCESS; // of the evictions since take_status()

    // parsed by state_read_meta(), waiting for state_read_data()
    std::vector<stream> streams_read;
    uint32_t            version_read = 0;

    // some layers, [beg, end)
    struct span {
        size_t beg;
        size_t end;
    };

    // work of an eviction: a scheduler of its own, so that the one of the batches keeps its reserved buffers
    ggml_backend_sched_t sched = nullptr;
    size_t sched_size = 0; // tensors that a graph may have
    bool reserved = false;

    // the layers that one graph computes
    std::vector<span> spans_scores;
    std::vector<span> spans_compact;

    uint32_t seq_stream(llama_seq_id seq_id) const;

    // the reservoir holds the tokens of the lowest keys: a uniform sample, the same however the text is cut into batches
    uint64_t res_key(llama_pos pos) const;

    // rows of a statistic that belong to one stream: the s-th so many
    int64_t n_rows_of(const layer & l, const ggml_tensor * t) const { return t == l.q_rows ? obs.n_rows() : 1; }

    void reset(stream & st) const;
    void init_obs_type();
    void init_obs();
    void clear_sums(uint32_t s) const;

    // cells in use, in the order of their positions
    std::vector<int32_t> cell_order(uint32_t s) const;

    llama_pos cell_pos(uint32_t s, const layer & l, int64_t head_kv, uint32_t cell) const;

    size_t n_nodes_scores(const span & part) const;

    bool init_sched(llama_context * lctx);
    void new_sched (llama_context * lctx, size_t size);
    void free_sched();

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

    // what an eviction of stream s does
    struct plan {
        uint32_t             s;
        llama_seq_id         seq_id;
        std::vector<int32_t> order; // cells in use, in the order of their positions: the entries
        uint32_t             n_target;

        // what n_target entries are made of
        uint32_t n_sink;
        uint32_t n_mid;
        uint32_t n_recent;

        // per layer
        std::vector<std::vector<int32_t>> keep;  // [n_target, n_head_kv] entries that each head keeps, ascending
        std::vector<std::vector<float>>   w;     // [n_target, n_head_kv] their weights in the capacity
        std::vector<std::vector<float>>   ridge; // [2, n_head_kv]
        std::vector<capacity>             cap;

        bool moved = false; // cells are no longer what they were
    };

    // measure how many heads can be scored together, for a plan of as many entries as there are cells
    void init_groups(const plan & p);

    ggml_cgraph * build_scores (ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<score_out> & outs) const;
    ggml_cgraph * build_compact(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<ggml_tensor *> & caps) const;

    // the observed part of what a policy looks at: heads [head0, head0 + sc.n_head)
    void score_queries(capkv_score_ctx & sc, const stream & st, uint32_t s, const layer & l, int64_t head0) const;

    ggml_status compute(llama_context * lctx, ggml_cgraph * gf, const capkv_inputs & inputs);

    plan make_plan(uint32_t s, uint32_t n_target) const;

    ggml_status select (llama_context * lctx, plan & p);
    ggml_status compact(llama_context * lctx, plan & p);
    void        account(plan & p);

    template <typename F>
    void state_tensors(uint32_t s, F && f) const;

    void state_write_stream(llama_io_write_i & io, const stream & st) const;
    void state_read_stream (llama_io_read_i  & io, stream & st) const;
};
