#pragma once

#include "kernels/cholesky.h"

#include "ggml.h"
#include "ggml-backend.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

struct capkv_params;

// what a policy needs of the queries before RoPE, per layer and query head, of all tokens after the sinks; only what is declared
// is allocated and computed
struct capkv_observe {
    bool    mean;   // their mean
    bool    cov;    // their covariance; needs mean
    int64_t n_res;  // reservoir: a uniform sample of this many queries, chosen by the seed
    int64_t n_last; // the last queries, this many

    ggml_type type = GGML_TYPE_F16; // that sampled and last queries are held in

    int64_t n_rows() const { return n_res + n_last; }

    // rows that the query of one token is written to at most
    int64_t n_rows_per_token() const { return (n_res > 0) + (n_last > 0); }
    bool    any()    const { return mean || n_rows() > 0; }

    // the same in another type, with a reservoir that takes as many bytes
    capkv_observe in_type(ggml_type type) const;
};

static constexpr capkv_observe CAPKV_OBSERVE_NONE = { false, false, 0, 0 };

// RoPE as a layer's attention applies it, read from the GGML_OP_ROPE node of its queries
struct capkv_rope {
    bool          on = false;
    int32_t       params[16] = {};   // op_params of the node
    ggml_tensor * factors = nullptr; // frequency factors or NULL
    ggml_tensor * weight  = nullptr; // of a norm after the rotation, or NULL

    // rotate x [d, n_head, n] to the RoPE positions pos: I32 [n], or [4*n] for M-RoPE
    ggml_tensor * apply(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos) const;

    // rotate x [d, n_head, n], which is rotated already, by the differences pos, as above; its length stays as it is
    ggml_tensor * shift(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos) const;

    // the data of the tensor pos for text tokens at these positions
    std::vector<int32_t> pos_data(const std::vector<int32_t> & pos) const;

    bool is_mrope() const { return params[2] & GGML_ROPE_TYPE_MROPE; }
};

// the inputs of a graph and their data, which set() copies once the graph is allocated
struct capkv_inputs {
    struct item {
        ggml_tensor * t;
        std::vector<uint8_t> data;
        ggml_backend_buffer_type_t buft;
    };

    std::vector<item> items;

    // where the inputs that are added next are to lie; NULL = where the scheduler puts them
    ggml_backend_buffer_type_t buft = nullptr;

    // whether equal inputs become one: the layers of a graph have many in common. Not where only sizes count and the data is made up
    const bool reuse;

    explicit capkv_inputs(bool reuse = true) : reuse(reuse) {}

    ggml_tensor * add(ggml_tensor * t, const void * data);

    ggml_tensor * add_i32(ggml_context * ctx, const std::vector<int32_t> & data);
    ggml_tensor * add_i64(ggml_context * ctx, const std::vector<int64_t> & data);
    ggml_tensor * add_f32(ggml_context * ctx, const std::vector<float>   & data, int64_t ne0, int64_t ne1);

    // copy the data; backend_of: NULL, or a backend that copies an input before what it computes next, without waiting for it
    void set(const std::function<ggml_backend_t(const item &)> & backend_of = [](const item &) { return nullptr; }) const;
};

// queries before RoPE, and the positions of their tokens
struct capkv_queries {
    ggml_tensor * q = nullptr; // F32 [d_k, n_head, m]; NULL if the policy does not observe them or none were seen yet
    std::vector<int32_t> pos;  // [m]

    explicit operator bool() const { return q != nullptr; }
};

static constexpr capkv_ridge CAPKV_RIDGE_REL = { 0.0f, 0.1f };

// the weights of the capacity C = 1/2 log det(I + sum_i (w_i + eps) v_i v_i^T/ridge), summed over the entries from i0 on; by
// default all entries have the same weight
struct capkv_weights {
    ggml_tensor * w     = nullptr; // F32 [n, 1, n_head]; NULL = 1/n
    float         eps   = 0.0f;
    int64_t       i0    = 0;
    capkv_ridge   ridge = CAPKV_RIDGE_REL;
};

// what a policy returns
struct capkv_policy_result {
    ggml_tensor * score;        // F32 [n, n_head_kv], finite: the entries with the highest scores are kept
    capkv_weights weights = {}; // the share of capacity that an eviction retains is measured under these weights
};

// a KV head
struct capkv_head {
    int32_t il;
    int64_t i; // in the layer
};

// builds a tensor of the entries [i0, i0 + n)
using capkv_entries = std::function<ggml_tensor *(int64_t i0, int64_t n)>;

// all that a policy can look at: some KV heads, for one sequence. They are of one layer, or of several that are alike
struct capkv_score_ctx {
    ggml_context       * ctx;
    capkv_inputs       & inputs;
    const capkv_params & params;

    capkv_score_ctx(ggml_context * ctx, capkv_inputs & inputs, const capkv_params & params) : ctx(ctx), inputs(inputs), params(params) {}

    int64_t n         = 0; // entries, in the order of their positions; the first min(n, n_sink) are the sinks
    int64_t n_head_kv = 0; // of this group of KV heads
    int64_t n_head    = 0; // their query heads, a multiple of n_head_kv
    int64_t d_k       = 0;
    int64_t d_v       = 0;

    bool on_host = false; // the graph runs on the CPU: the fused kernels of kernels/cpu.cpp are used

    // K and V of the entries [i0, i0 + n): F32 [d_k, n, n_head_kv] after RoPE, and F32 [d_v, n, n_head_kv]
    capkv_entries k;
    capkv_entries v;

    int64_t n_tile = 0; // a graph takes so many entries at once, at least 1: see capkv_build_tiles() and capkv_build_tile_sum()

    // positions of the entries: [n, n_head_kv], ascending in each head
    std::function<std::vector<int32_t>()> positions;

    // those that their keys are rotated to; the same until a sequence gets new RoPE positions
    std::function<std::vector<int32_t>()> rope_positions;

    // the queries as observed, before RoPE; NULL if the policy does not observe them or none were seen yet
    ggml_tensor * q_mean = nullptr; // F32 [d_k, n_head]
    ggml_tensor * q_cov  = nullptr; // F32 [d_k, d_k, n_head]
    capkv_queries q_res;            // the reservoir, in no order
    capkv_queries q_last;           // in the order of their positions

    const capkv_rope * rope = nullptr;
    std::function<ggml_tensor *(ggml_tensor *)> k_rot; // the rotation that llama.cpp stores a quantized K in, its own inverse; else the identity

    float   kq_scale = 0.0f;
    int32_t next_pos = 0; // of the next token

    // position minus RoPE position, of queries
    int32_t pos_offset = 0;

    // rotate x [d_k, n_head, m], before RoPE, as the attention does at these positions: [m]
    ggml_tensor * rotate(ggml_tensor * x, const std::vector<int32_t> & pos) const;

    // unit vectors: [d, d]
    ggml_tensor * eye(int64_t d) const;

    // what the policy random derives its numbers from, with the seed
    std::vector<capkv_head> heads;           // [n_head_kv] which they are
    uint64_t                n_evictions = 0; // so far
};

struct capkv_policy {
    const char *  name;
    const char *  help;
    capkv_observe observe;

    // builds the graph that scores all entries of sc
    capkv_policy_result (*score)(const capkv_score_ctx & sc);
};

// NULL if there is none of that name
const capkv_policy * capkv_policy_find(const std::string & name);

// how far ahead of the next token the j-th query of the reservoir is placed: from the seed, in [0, 256)
int32_t capkv_res_offset(uint32_t seed, int64_t j);

// 64 pseudo-random bits of a key (splitmix64)
uint64_t capkv_hash(uint64_t x);
