#pragma once

#include "ggml.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

struct capkv_params;

// what a policy has to see of the queries before RoPE; only what is declared is allocated and computed
enum capkv_observe {
    CAPKV_OBSERVE_NONE = 0,
    CAPKV_OBSERVE_MEAN = 1 << 0, // running sum over the tokens after the sinks
    CAPKV_OBSERVE_RES  = 1 << 1, // reservoir: a seeded uniform sample of them
};

static constexpr int64_t CAPKV_N_RES = 64; // queries in the reservoir, per layer and query head

// RoPE as a layer's attention applies it: the parameters of the GGML_OP_ROPE node that its queries went through
struct capkv_rope {
    bool          on = false;
    int32_t       params[16] = {};   // op_params of the node
    ggml_tensor * factors = nullptr; // frequency factors or NULL

    // rotate x [d, n_head, n] to the positions pos; I32 [n], or [4*n] for M-RoPE
    ggml_tensor * apply(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos) const;

    // values of pos for n text tokens at the given positions
    std::vector<int32_t> pos_data(const std::vector<int32_t> & pos) const;

    bool is_mrope() const { return params[2] & GGML_ROPE_TYPE_MROPE; }
};

// collects the host data of a graph's inputs, to be set once the graph is allocated
struct capkv_inputs {
    struct item {
        ggml_tensor * t;
        std::vector<uint8_t> data;
    };

    std::vector<item> items;

    ggml_tensor * add_i32(ggml_context * ctx, const std::vector<int32_t> & data);
    ggml_tensor * add_i64(ggml_context * ctx, const std::vector<int64_t> & data);
    ggml_tensor * add_f32(ggml_context * ctx, const std::vector<float>   & data, int64_t ne0, int64_t ne1);

    void set() const;
};

// all that a policy can look at: some KV heads of one layer of one sequence
struct capkv_score_ctx {
    ggml_context       * ctx;
    capkv_inputs       & inputs;
    const capkv_params & params;

    int64_t n;         // entries, in the order of their positions; the first min(n, n_sink) are the sinks
    int64_t n_head_kv; // KV heads at hand
    int64_t n_head;    // query heads at hand, a multiple of it
    int64_t d_k;
    int64_t d_v;

    bool on_host; // the graph runs on the CPU: the fused kernels of capkv-cpu.h may take part

    ggml_tensor * k; // F32 [d_k, n, n_head_kv] after RoPE
    ggml_tensor * v; // F32 [d_v, n, n_head_kv]

    // as observed, before RoPE; NULL if not declared or if nothing was seen yet
    ggml_tensor * q_mean; // F32 [d_k, n_head]
    ggml_tensor * q_res;  // F32 [d_k, n_head, n_res]
    const capkv_rope * rope;
    std::function<ggml_tensor *(ggml_tensor *)> k_rot; // the rotation that a quantized K is stored under, or the identity

    float   kq_scale;
    int32_t next_pos;

    // vary the policy `random`
    int32_t  il;
    int64_t  head_kv0; // first KV head at hand
    uint64_t n_evictions;
};

struct capkv_policy {
    const char * name;
    const char * help;
    uint32_t     observe; // capkv_observe flags

    // scores of all entries: F32 [n, n_head_kv], finite, the higher the rather kept
    ggml_tensor * (*score)(capkv_score_ctx & sc);

    // f32 values per entry and query head that the graph holds at once: sizes the groups of heads that are scored together
    int64_t (*work)(int64_t d_k, int64_t d_v);
};

// a new policy: one file, declared here and listed in capkv-policy.cpp
extern const capkv_policy capkv_policy_capkv;
extern const capkv_policy capkv_policy_capkv_ref;
extern const capkv_policy capkv_policy_streaming;
extern const capkv_policy capkv_policy_random;

// NULL if there is none of that name
const capkv_policy * capkv_policy_find(const std::string & name);

// offset of the j-th reservoir query: fixed, seeded, in [0, 256)
int32_t capkv_res_offset(uint32_t seed, int64_t j);

// well mixed 64 bits of a key (splitmix64)
uint64_t capkv_hash(uint64_t x);

//
// pieces of graphs that policies share
//

// sum over dim 1: [n, m, n_head] -> [n, 1, n_head]
ggml_tensor * capkv_build_sum1(ggml_context * ctx, ggml_tensor * x);

// mean over the queries of softmax_i(q_j . k_i scale): q [d_k, m, n_head] -> [n, 1, n_head]
ggml_tensor * capkv_build_mean_softmax(const capkv_score_ctx & sc, ggml_tensor * q);

// leverage w_i v_i^T A^-1 v_i per query head, A = ridge + sum_i (w_i + eps) v_i v_i^T over the entries from i0 on
//   w [n, 1, n_head]; result [n, n_head/n_head_kv, n_head_kv], averaged over the group: [n, n_head_kv]
struct capkv_ridge {
    float abs; // ridge = abs I + rel tr(M)/d_v I, M the sum
    float rel;
};

ggml_tensor * capkv_build_leverage(capkv_score_ctx & sc, ggml_tensor * w, float eps, int64_t i0, const capkv_ridge * ridge);
