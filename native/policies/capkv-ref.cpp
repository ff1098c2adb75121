// capkv-ref: CapKV as its authors' code computes it (CapPress of kvpress 0.5.5)
//
// Yang, Tang, Zhen, Lv, "Rethinking KV Cache Eviction via a Unified Information-Theoretic Objective" (arXiv 2604.25975)
//
//   mu  = R_bar mean_t q_t, R_bar the mean of the RoPE rotations at the next n_future positions
//   w_i = exp(tau (cos(k_i, mu) - max_j cos(k_j, mu)))          the maximum over the entries after the sinks
//   A   = I + sum_i (w_i + eps) v_i v_i^T                       over the entries after the sinks
//   s_i = w_i v_i^T A^-1 v_i                                    averaged over the query heads of the group
//
// Departures from the paper, which are the authors':
//   1. the paper's w is exp(tau <k, mu>), on vectors that are not normalised
//   2. the anchor is rotated to the mean of n_future positions
//
// A token that is rolled back stays in the mean query.
//
// Cost per layer: about 4 n d^2 flops per query head

#include "pieces.h"

#include "capkv.h"

#include <algorithm>

static constexpr int64_t CAPKV_REF_N_FUTURE = 512;
static constexpr float   CAPKV_REF_EPS      = 1e-6f;

static constexpr capkv_ridge CAPKV_REF_RIDGE = { 1.0f, 0.0f };

// R_bar mean_t q_t: [d_k, n_head]
static ggml_tensor * capkv_build_anchor(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * mu = sc.q_mean;

    if (sc.rope->on) {
        std::vector<int32_t> pos(CAPKV_REF_N_FUTURE);
        for (int64_t j = 0; j < CAPKV_REF_N_FUTURE; ++j) {
            pos[j] = sc.next_pos + (int32_t) j;
        }

        mu = ggml_repeat_4d(ctx, mu, sc.d_k, sc.n_head, CAPKV_REF_N_FUTURE, 1);
        mu = sc.rotate(mu, pos);
        mu = ggml_reshape_3d(ctx, mu, sc.d_k*sc.n_head, CAPKV_REF_N_FUTURE, 1);
        mu = ggml_scale(ctx, capkv_build_sum1(ctx, mu), 1.0f/CAPKV_REF_N_FUTURE);
        mu = ggml_reshape_2d(ctx, mu, sc.d_k, sc.n_head);
    }

    return sc.k_rot(mu);
}

static capkv_policy_result capkv_score_capkv_ref(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    const int64_t i0 = std::min<int64_t>(sc.params.n_sink, sc.n - 1);

    ggml_tensor * w;

    if (sc.q_mean) {
        ggml_tensor * mu = ggml_l2_norm(ctx, capkv_build_anchor(sc), 1e-12f);
        mu = ggml_reshape_3d(ctx, mu, sc.d_k, 1, sc.n_head);

        ggml_tensor * c = capkv_build_tiles(sc, [&](int64_t i0, int64_t n) { // [n, 1, n_head]
            return capkv_build_dot(ctx, ggml_l2_norm(ctx, sc.k(i0, n), 1e-12f), mu);
        });

        c = ggml_clamp(ctx, c, -1.0f, 1.0f);

        // max_j c_j: ggml has no such reduction, so take the value at the index of the top 1
        ggml_tensor * ct = ggml_cont(ctx, ggml_view_3d(ctx, c, sc.n - i0, 1, sc.n_head, c->nb[1], c->nb[2], i0*c->nb[0]));
        ggml_tensor * top = ggml_top_k(ctx, ggml_reshape_2d(ctx, ct, sc.n - i0, sc.n_head), 1);           // I32 [1, n_head]
        ggml_tensor * max = ggml_get_rows(ctx, ggml_reshape_3d(ctx, ct, 1, sc.n - i0, sc.n_head), top);   // [1, 1, n_head]

        w = ggml_exp(ctx, ggml_scale(ctx, ggml_sub(ctx, c, max), sc.params.tau));
    } else {
        w = ggml_fill(ctx, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, sc.n, 1, sc.n_head), 1.0f);
    }

    const capkv_weights weights = { w, CAPKV_REF_EPS, i0, CAPKV_REF_RIDGE };

    return { capkv_build_group_mean(sc, capkv_build_leverage(sc, sc.v, weights, capkv_build_ridge(sc, weights.ridge))), weights };
}

extern const capkv_policy capkv_policy_capkv_ref = {
    /*.name    =*/ "capkv-ref",
    /*.help    =*/ "CapKV as its authors' code computes it: leverage under the cosine to the mean query",
    /*.observe =*/ { /*.mean =*/ true, /*.cov =*/ false, /*.n_res =*/ 0, /*.n_last =*/ 0 },
    /*.score   =*/ capkv_score_capkv_ref,
};
