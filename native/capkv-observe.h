#pragma once

#include "capkv-layer.h"
#include "capkv-params.h"
#include "capkv-rope.h"
#include "policies/policy.h"

#include "ggml-cpp.h"
#include "llama-batch.h"
#include "llama-kv-cache.h"

#include <utility>
#include <vector>

struct llm_graph_context;

//
// capkv_observer: what a policy sees of the queries
//
// Nodes in the graph of each batch take it from the queries before RoPE. It lives in tensors beside the layer's K and V, on the same
// device, and is cleared and counted with them. Which tokens a sample holds is decided on the host.
//

class capkv_observer {
public:
    // of a layer
    struct layer {
        ggml_tensor * q_sum  = nullptr; // F32 [d_k*n_head, n_stream]
        ggml_tensor * q_cov  = nullptr; // F32 [d_k*d_k*n_head, n_stream] sum of outer products
        ggml_tensor * q_rows = nullptr; // what.type [d_k*n_head, n_rows*n_stream + n_scratch] reservoir, then the last ones; scratch rows

        // as the last graph had it
        bool       observed = false;
        capkv_rope rope;
        float      kq_scale = 0.0f;
    };

    // one of these tensors: each stream has n_rows of its rows, one stream after the other
    struct tensor {
        ggml_tensor * t;
        int64_t       n_rows;
        bool          is_sum;

        size_t size()             const { return n_rows*t->nb[1]; }
        size_t offset(uint32_t s) const { return s*size(); }
    };

    // the token whose query a row of q_rows holds
    struct row {
        llama_pos pos = -1; // -1 = none
        uint64_t  key = 0;  // key_of(pos); 0 = the query is one of a known question

        bool is_focus() const { return pos >= 0 && key == 0; }
    };

    struct stream {
        std::vector<row> rows;      // [n_rows]
        uint64_t         n_sum = 0; // tokens in q_sum
    };

    // what is taken of a batch: token i of the ubatch goes to row dst of q_rows
    struct plan {
        struct item { int32_t i; int64_t dst; uint32_t s; row new_row; };

        std::vector<item>     rows;
        std::vector<float>    sum;   // [n_tokens, n_stream] 1 where a token counts
        std::vector<uint64_t> n_sum; // [n_stream] tokens that do
    };

    using buffers = std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>>;

    // allocates the tensors, into bufs, unless no_alloc; throws capkv_error
    capkv_observer(
            const llama_kv_cache & kv, const capkv_params & params, const capkv_policy & policy, const std::vector<capkv_layer> & layers,
            buffers & bufs, bool no_alloc);

    void reset(uint32_t s);
    void copy (uint32_t s_src, uint32_t s_dst);
    void set  (uint32_t s, stream && st);

    // the text is removed: as reset(), but the queries of a known question stay
    void reset_text(uint32_t s);

    const stream & get(uint32_t s) const { return streams[s]; }

    // the same for the tensors: seq_cp() copies them later, with the cells
    void copy_tensors(uint32_t s_src, uint32_t s_dst);

    // forget the sampled tokens of a range; those of a known question stay
    void forget(uint32_t s, llama_pos p0, llama_pos p1);

    // A question that is known before its text takes rows of the reservoir: those of its newest tokens, sinks included, which no token of
    // the text displaces. Between begin_focus() and end_focus() the tokens that are read for a stream are the question's. A begin drops
    // the question before
    void begin_focus(uint32_t s);
    void end_focus();
    void drop_focus(uint32_t s);

    int64_t n_focus(uint32_t s) const; // rows that it holds

    // the text keeps two thirds of the sample; 0 = the policy has none
    int64_t n_focus_max() const { return obs.n_res/3; }

    // what of the policy's declaration fits the model and its devices
    const capkv_observe & what() const { return obs; }

    const layer & of(const capkv_layer & l) const { return layers_obs[l.i]; }

    // as the last graph had it
    const capkv_key_ropes & get_key_ropes() const { return key_ropes; }

    const std::vector<tensor> & get_tensors() const { return tensors; }

    // above 0. The reservoir holds the tokens of the lowest keys: a uniform sample, the same however the text is cut into batches
    uint64_t key_of(llama_pos pos) const;

    // bytes of the tensors for one stream
    size_t n_bytes() const;

    //
    // the graph of a batch (capkv-observe-graph.cpp)
    //

    // nodes that build() adds at most, for all layers
    uint32_t n_nodes() const;

    // q_cur: [d_k, n_head, n_tokens], as the attention gets it; k_cur: the same of the keys, or NULL if the layer has none of its own
    void build(
            const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, ggml_tensor * k_cur, float kq_scale, int il);

    plan make_plan(const llama_ubatch & ubatch, bool warmup) const;
    void commit(const plan & p);

    // whether commit() clears the sums of a sequence, because its first tokens come
    bool clears_sums(const plan & p) const;

    // A graph with n_rows rows serves every batch that takes no more; rows that a batch does not need go to scratch rows. How many a
    // batch of single tokens takes differs each time, so for so few the number is a power of two
    size_t  pad_rows(size_t n) const;
    size_t  n_scratch() const;
    int64_t scratch_row(size_t i) const; // of q_rows

    //
    // the graph of an eviction
    //

    // adds to sc what was observed of stream s for heads [head0, head0 + sc.n_head) of a layer. With `all`, as if every row were filled:
    // to reserve memory before anything was observed
    void add_queries(capkv_score_ctx & sc, uint32_t s, const capkv_layer & l, int64_t head0, bool all) const;

private:
    const llama_kv_cache & kv;
    const capkv_params   & params;

    const std::vector<capkv_layer> & layers;

    capkv_observe obs;

    capkv_key_ropes     key_ropes;
    std::vector<layer>  layers_obs;
    std::vector<tensor> tensors;
    std::vector<stream> streams;

    int64_t s_focus = -1; // the stream whose tokens are a question's, while it is read

    capkv_observe choose_type(const capkv_policy & policy) const;

    void alloc(buffers & bufs, bool no_alloc);
    void clear_sums(uint32_t s) const;
};
