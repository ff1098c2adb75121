// leverage: statistical leverage of the keys
//
// Chari, Van Durme, "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage Scores"
// (arXiv 2507.08143): the leverage part of its score
//
//   x_i   = k_i before RoPE, minus their mean over the entries
//   score = x_i^T (lambda/d sum_j |k_j|^2 I + sum_j x_j x_j^T)^-1 x_i
//
// Departures from the paper:
//   1. exact, with a ridge of lambda 0.01; the paper projects the keys to fewer dimensions at random
//   2. leverage alone; the paper mixes in attention among the keys of a chunk
//   3. keys are cached after RoPE: they are rotated back by their positions
//
// Cost per layer: about 4 n d^2 flops per KV head

#include "pieces.h"

static constexpr float CAPKV_LEVERAGE_LAMBDA = 0.01f;

// keys of the entries [i0, i0 + n) before RoPE: [d_k, n, n_head_kv]
static ggml_tensor * capkv_build_unrotated_keys(const capkv_score_ctx & sc, int64_t i0, int64_t n) {
    ggml_tensor * x = sc.k_rot(sc.k(i0, n));

    if (!sc.rope->on) {
        return x;
    }

    // rotate by the negative positions; YaRN's scaling of the magnitude is applied a second time, but leverage does not
    // depend on the scale of the keys
    const auto pos_all = sc.rope_positions(); // [sc.n, n_head_kv]

    std::vector<int32_t> pos;
    for (int64_t h = 0; h < sc.n_head_kv; ++h) {
        for (int64_t i = i0; i < i0 + n; ++i) {
            pos.push_back(-pos_all[h*sc.n + i]);
        }
    }

    x = ggml_reshape_3d(sc.ctx, x, sc.d_k, 1, n*sc.n_head_kv);
    x = sc.rope->apply(sc.ctx, x, sc.inputs.add_i32(sc.ctx, sc.rope->pos_data(pos)));

    return ggml_reshape_3d(sc.ctx, x, sc.d_k, n, sc.n_head_kv);
}

static capkv_policy_result capkv_score_leverage(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * all = sc.n <= sc.n_tile ? capkv_build_unrotated_keys(sc, 0, sc.n) : nullptr;

    auto keys = [&](int64_t i0, int64_t n) { return all ? all : capkv_build_unrotated_keys(sc, i0, n); };

    // the ridge is relative to the keys before their mean is subtracted: if all keys are alike, nothing is left after it
    ggml_tensor * ridge = capkv_build_tile_sum(sc, [&](int64_t i0, int64_t n) {
        return ggml_sum_rows(ctx, ggml_reshape_2d(ctx, ggml_sqr(ctx, keys(i0, n)), sc.d_k*n, sc.n_head_kv)); // [1, n_head_kv]
    });
    ridge = ggml_scale(ctx, ridge, CAPKV_LEVERAGE_LAMBDA/sc.d_k);
    ridge = ggml_concat(ctx, ridge, ggml_scale(ctx, ridge, 0.0f), 0);                                        // [2, n_head_kv]

    ggml_tensor * mean = capkv_build_tile_sum(sc, [&](int64_t i0, int64_t n) { return capkv_build_sum1(ctx, keys(i0, n)); });
    mean = ggml_scale(ctx, mean, 1.0f/sc.n);

    ggml_tensor * x_all = all ? ggml_sub(ctx, all, mean) : nullptr;

    auto entries = [&](int64_t i0, int64_t n) { return x_all ? x_all : ggml_sub(ctx, keys(i0, n), mean); };

    // every entry has weight 1
    ggml_tensor * one = ggml_fill(ctx, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, sc.n, 1, sc.n_head_kv), 1.0f);

    return { capkv_build_group_mean(sc, capkv_build_leverage(sc, entries, { one }, ridge)) };
}

extern const capkv_policy capkv_policy_leverage = {
    /*.name    =*/ "leverage",
    /*.help    =*/ "leverage of the keys before RoPE (Compactor's, without its attention part)",
    /*.observe =*/ CAPKV_OBSERVE_NONE,
    /*.score   =*/ capkv_score_leverage,
};
