// capkv: statistical leverage under attention weights of sampled queries, and key novelty
//
// Yang, Tang, Zhen, Lv, "Rethinking KV Cache Eviction via a Unified Information-Theoretic Objective" (arXiv 2604.25975)
// Park et al., "KeyDiff" (arXiv 2504.15364): the novelty term
//
//   w_i   = mean_j softmax_i(q_j . k_i kq_scale)                over all entries, q_j the reservoir's queries
//   A     = lambda tr(M)/d_v I + M, M = sum_i w_i v_i v_i^T
//   s_i   = w_i v_i^T A^-1 v_i                                  averaged over the query heads of the group
//   score = z(log s_i) + novelty z(-cos(k_i, mean_j k_j/|k_j|)) z: standardised over the entries of the KV head
//
// Departures from the paper:
//   1. w comes from a sample of real queries, not from exp(tau <k, mean query>)
//   2. the ridge is relative to M: w sums to one, next to which an absolute ridge of 1 would be all there is
//   3. leverage alone keeps what attention looks at now; novelty keeps what a later question may need
//
// Cost per layer: about 2 n d n_res + 4 n d^2 flops per query head

#include "capkv-policy.h"

#include "capkv-params.h"

#include <cmath>

static const capkv_ridge capkv_ridge_rel = { 0.0f, 0.1f };

// w: F32 [n, 1, n_head], sums to one over the entries
static ggml_tensor * capkv_build_attention(capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    if (!sc.q_res) {
        // nothing was seen after the sinks: no query is likelier than another
        return ggml_fill(ctx, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, sc.n, 1, sc.n_head), 1.0f/sc.n);
    }

    const int64_t n_res = sc.q_res->ne[2];

    std::vector<int32_t> pos(n_res);
    for (int64_t j = 0; j < n_res; ++j) {
        pos[j] = sc.next_pos + capkv_res_offset(sc.params.seed, j);
    }

    ggml_tensor * q = sc.q_res; // [d_k, n_head, n_res]
    q = sc.rope->apply(ctx, q, sc.inputs.add_i32(ctx, sc.rope->pos_data(pos)));
    q = sc.k_rot(q);
    q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 2, 1, 3)); // [d_k, n_res, n_head]

    return capkv_build_mean_softmax(sc, q);
}

static ggml_tensor * capkv_score_capkv(capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * w = capkv_build_attention(sc);
    ggml_tensor * s = capkv_build_leverage(sc, w, 0.0f, 0, &capkv_ridge_rel); // [n, n_head_kv]

    // an entry without value or weight has no leverage: the lowest score, but a finite one
    s = ggml_norm(ctx, ggml_log(ctx, ggml_clamp(ctx, s, 1e-30f, INFINITY)), 1e-10f);

    ggml_tensor * kn = ggml_l2_norm(ctx, sc.k, 1e-12f);                               // [d_k, n, n_head_kv]
    ggml_tensor * km = ggml_l2_norm(ctx, capkv_build_sum1(ctx, kn), 1e-12f);          // [d_k, 1, n_head_kv]
    ggml_tensor * nv = ggml_reshape_2d(ctx, ggml_mul_mat(ctx, kn, km), sc.n, sc.n_head_kv); // cos, [n, n_head_kv]

    return ggml_sub(ctx, s, ggml_scale(ctx, ggml_norm(ctx, nv, 1e-10f), sc.params.novelty));
}

extern const capkv_policy capkv_policy_capkv = {
    /*.name    =*/ "capkv",
    /*.help    =*/ "leverage under the attention of sampled queries, plus key novelty",
    /*.observe =*/ CAPKV_OBSERVE_RES,
    /*.score   =*/ capkv_score_capkv,
    /*.work    =*/ [](int64_t d_k, int64_t d_v) { return 2*CAPKV_N_RES + 3*d_v + d_k; },
};
