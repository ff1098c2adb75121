// expected: the attention expected of queries with the mean and covariance seen so far, times the norm of the value
//
// Devoto, Jeblick, Jégou, "Expected Attention" (arXiv 2510.00636)
//
//   mu, S = R_bar mean(q), R_bar cov(q) R_bar^T    R_bar the mean of the RoPE rotations at the next n_future positions
//   w_i   = softmax_i(kq_scale k_i . mu + kq_scale^2/2 k_i^T S k_i)   over the entries after the sinks
//   score = mean over the query heads of the group of w_i, times |v_i|
//
// Departures from the paper:
//   1. mean and covariance are running ones over all tokens after the sinks; a token that is rolled back stays in them
//   2. every KV head keeps the same number of entries; the authors' code can also divide a layer's entries among its heads
//
// Cost per layer: 2 n d^2 flops per query head. The covariance takes d^2 floats of memory per query head: for an 8B model
// 64 MiB, a third of the bytes of the cells at a budget of 1024.

#include "pieces.h"

#include "capkv.h"

#include <algorithm>

static constexpr int64_t CAPKV_EXPECTED_N_FUTURE = 512;

// logits of the entries: [n, 1, n_head]
static ggml_tensor * capkv_build_expected_logits(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    const int64_t d = sc.d_k;
    const int64_t h = sc.n_head;
    const int64_t g = sc.n_head_kv;
    const int64_t r = h/g;

    ggml_tensor * rot = ggml_cont(ctx, ggml_transpose(ctx, capkv_build_mean_rotation(sc, CAPKV_EXPECTED_N_FUTURE))); // rows of R_bar

    auto rotate = [&](ggml_tensor * x) { return capkv_build_mul_mat(ctx, rot, x); };

    ggml_tensor * mu = ggml_reshape_3d(ctx, rotate(sc.q_mean), d, 1, h);
    ggml_tensor * s  = rotate(ggml_reshape_2d(ctx, sc.q_cov, d, d*h));
    s = ggml_cont(ctx, ggml_transpose(ctx, ggml_reshape_3d(ctx, s, d, d, h)));
    s = ggml_reshape_3d(ctx, rotate(ggml_reshape_2d(ctx, s, d, d*h)), d, d*r, g);

    return capkv_build_tiles(sc, [&](int64_t i0, int64_t n) {
        ggml_tensor * k = sc.k(i0, n);

        ggml_tensor * lin = capkv_build_dot(ctx, k, mu); // [n, 1, n_head]

        ggml_tensor * sk = capkv_build_mul_mat(ctx, s, k); // [d*r, n, n_head_kv]

        ggml_tensor * k4   = ggml_reshape_4d(ctx, k, d, 1, n, g);
        ggml_tensor * quad = ggml_sum_rows(ctx, ggml_mul(ctx, ggml_reshape_4d(ctx, sk, d, r, n, g), k4));      // [1, r, n, n_head_kv]
        quad = ggml_cont(ctx, ggml_transpose(ctx, ggml_reshape_3d(ctx, quad, r, n, g)));                       // [n, r, n_head_kv]
        quad = ggml_reshape_3d(ctx, quad, n, 1, h);

        return ggml_add(ctx, ggml_scale(ctx, lin, sc.kq_scale), ggml_scale(ctx, quad, 0.5f*sc.kq_scale*sc.kq_scale));
    });
}

static capkv_policy_result capkv_score_expected(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    const int64_t i0 = std::min<int64_t>(sc.params.n_sink, sc.n - 1);

    capkv_weights weights;

    if (sc.q_mean && sc.q_cov) {
        ggml_tensor * x = capkv_build_expected_logits(sc);
        ggml_tensor * w = ggml_soft_max(ctx, ggml_cont(ctx, ggml_view_3d(ctx, x, sc.n - i0, 1, sc.n_head, x->nb[1], x->nb[2], i0*x->nb[0])));
        if (i0 > 0) {
            w = ggml_concat(ctx, ggml_fill(ctx, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, i0, 1, sc.n_head), 0.0f), w, 0);
        }
        weights = { w, /*.eps =*/ 0.0f, i0 };
    } else {
        weights = { capkv_build_uniform(sc) };
    }

    return { ggml_mul(ctx, capkv_build_group_mean(sc, weights.w), capkv_build_norm(sc, sc.v)), weights };
}

extern const capkv_policy capkv_policy_expected = {
    /*.name    =*/ "expected",
    /*.help    =*/ "attention expected of queries with the seen mean and covariance, times the value's norm (Expected Attention)",
    /*.observe =*/ { /*.mean =*/ true, /*.cov =*/ true, /*.n_res =*/ 0, /*.n_last =*/ 0 },
    /*.score   =*/ capkv_score_expected,
};
