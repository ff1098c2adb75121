#include "pieces.h"

#include "kernels/cholesky.h"
#include "kernels/cpu.h"

#include <algorithm>

static bool capkv_use_kernels(bool on_host) {
    return on_host && capkv_cpu_has_kernels();
}

ggml_tensor * capkv_build_sum1(ggml_context * ctx, ggml_tensor * x) {
    ggml_tensor * rest = nullptr; // [n, 1, n_head]

    auto rows = [&](int64_t i0, int64_t n_rows) {
        return ggml_view_3d(ctx, x, x->ne[0], n_rows, x->ne[2], x->nb[1], x->nb[2], i0*x->nb[1]);
    };

    // halving keeps the additions along rows: fast everywhere, and exact to log2(m) roundings
    while (x->ne[1] > 1) {
        const int64_t m = x->ne[1];
        if (m % 2) {
            rest = rest ? ggml_add(ctx, rows(m - 1, 1), rest) : rows(m - 1, 1);
        }
        x = ggml_add(ctx, rows(0, m/2), rows(m/2, m/2));
    }

    return rest ? ggml_add(ctx, x, rest) : x;
}

ggml_tensor * capkv_build_group_mean(const capkv_score_ctx & sc, ggml_tensor * x) {
    const int64_t r = x->ne[2]/sc.n_head_kv;

    if (r > 1) {
        x = ggml_cont(sc.ctx, ggml_reshape_3d(sc.ctx, x, sc.n, r, sc.n_head_kv));
        x = ggml_scale(sc.ctx, capkv_build_sum1(sc.ctx, x), 1.0f/r);
    }

    return ggml_reshape_2d(sc.ctx, x, sc.n, sc.n_head_kv);
}

// inner products of all entries with vectors per query head: x [d, n, n_head_kv], y [d, m, n_head] -> [n, m, n_head]
static ggml_tensor * capkv_build_dot(ggml_context * ctx, ggml_tensor * x, ggml_tensor * y) {
    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];
    const int64_t m = y->ne[1];

    const int64_t n_head    = y->ne[2];
    const int64_t n_head_kv = x->ne[2];

    // the query heads of a group side by side: one product per KV head
    y = ggml_reshape_3d(ctx, y, d, m*(n_head/n_head_kv), n_head_kv);

    ggml_tensor * res = ggml_mul_mat(ctx, x, y);
    ggml_prec_set_acc(res, GGML_PREC_F32);

    return ggml_reshape_3d(ctx, res, n, m, n_head);
}

//
// attention
//

// entries that each query sees, [n_head_kv*m]: those at positions up to its own
static std::vector<float> capkv_n_visible(const capkv_score_ctx & sc, const std::vector<int32_t> & pos) {
    const auto pos_kv = sc.positions();

    std::vector<float> res;
    for (int64_t h = 0; h < sc.n_head_kv; ++h) {
        const auto beg = pos_kv.begin() + h*sc.n;
        for (const int32_t p : pos) {
            res.push_back((float) std::max<int64_t>(1, std::upper_bound(beg, beg + sc.n, p) - beg));
        }
    }
    return res;
}

// 0 where a query sees the entry, elsewhere what no weight comes back from: n_vis [m, n_head_kv] -> F32 [n, m, 1, n_head_kv]
static ggml_tensor * capkv_build_causal_bias(ggml_context * ctx, ggml_tensor * n_vis, int64_t n) {
    const int64_t m = n_vis->ne[0];

    ggml_tensor * idx = ggml_repeat_4d(ctx, ggml_arange(ctx, 0.5f, (float) n, 1.0f), n, m, 1, n_vis->ne[1]);
    ggml_tensor * end = ggml_reshape_4d(ctx, n_vis, 1, m, 1, n_vis->ne[1]);

    return ggml_scale(ctx, ggml_step(ctx, ggml_sub(ctx, idx, end)), -1e30f);
}

ggml_tensor * capkv_build_uniform(const capkv_score_ctx & sc) {
    return ggml_fill(sc.ctx, ggml_new_tensor_3d(sc.ctx, GGML_TYPE_F32, sc.n, 1, sc.n_head), 1.0f/sc.n);
}

// queries asked at pos, as the cached keys are stored: [d_k, n_head, m] -> [d_k, m, n_head]
static ggml_tensor * capkv_build_queries(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos) {
    q = sc.k_rot(sc.rope->apply(sc.ctx, q, sc.inputs.add_i32(sc.ctx, sc.rope->pos_data(pos))));

    return ggml_cont(sc.ctx, ggml_permute(sc.ctx, q, 0, 2, 1, 3));
}

ggml_tensor * capkv_build_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos, bool causal) {
    ggml_context * ctx = sc.ctx;

    const int64_t m = pos.size();
    const int64_t r = sc.n_head/sc.n_head_kv;

    q = capkv_build_queries(sc, q, pos);

    ggml_tensor * n_vis = nullptr;
    if (causal) {
        n_vis = sc.inputs.add_f32(ctx, capkv_n_visible(sc, pos), m, sc.n_head_kv);
    }

    if (capkv_use_kernels(sc.on_host)) {
        return capkv_build_mean_softmax_cpu(ctx, sc.k, q, n_vis, sc.kq_scale);
    }

    ggml_tensor * kq = capkv_build_dot(ctx, sc.k, q); // [n, m, n_head]
    float scale = sc.kq_scale;

    if (n_vis) {
        kq = ggml_scale(ctx, ggml_reshape_4d(ctx, kq, sc.n, m, r, sc.n_head_kv), scale);
        kq = ggml_reshape_3d(ctx, ggml_add(ctx, kq, capkv_build_causal_bias(ctx, n_vis, sc.n)), sc.n, m, sc.n_head);
        scale = 1.0f;
    }
    kq = ggml_soft_max_ext(ctx, kq, nullptr, scale, 0.0f);

    return ggml_scale(ctx, capkv_build_sum1(ctx, kq), 1.0f/m);
}

ggml_tensor * capkv_build_expected_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos, float spread) {
    ggml_context * ctx = sc.ctx;

    q = capkv_build_queries(sc, q, pos);

    ggml_tensor * x;

    if (capkv_use_kernels(sc.on_host)) {
        x = capkv_build_gauss_cpu(ctx, sc.k, q, sc.kq_scale, spread);
    } else {
        const float m = pos.size();

        ggml_tensor * kq   = ggml_scale(ctx, capkv_build_dot(ctx, sc.k, q), sc.kq_scale);   // [n, m, n_head]
        ggml_tensor * mean = ggml_scale(ctx, capkv_build_sum1(ctx, kq), 1.0f/m);            // [n, 1, n_head]
        ggml_tensor * var  = capkv_build_sum1(ctx, ggml_sqr(ctx, ggml_sub(ctx, kq, mean)));

        x = ggml_add(ctx, mean, ggml_scale(ctx, var, spread/m));
    }

    // a weight that f32 does not hold would leave an entry nothing to be ranked by
    return ggml_scale_bias(ctx, ggml_soft_max(ctx, x), 1.0f, 1e-20f);
}

ggml_tensor * capkv_build_mean_rotation(const capkv_score_ctx & sc, int64_t n_future) {
    ggml_context * ctx = sc.ctx;

    // unit vectors as heads; in parts, which bounds the memory
    std::vector<float> unit(sc.d_k*sc.d_k, 0.0f);
    for (int64_t i = 0; i < sc.d_k; ++i) {
        unit[i*sc.d_k + i] = 1.0f;
    }
    ggml_tensor * eye = sc.inputs.add_f32(ctx, unit, sc.d_k, sc.d_k);

    if (!sc.rope->on) {
        return sc.k_rot(eye);
    }

    ggml_tensor * sum = nullptr;

    for (int64_t j0 = 0; j0 < n_future; j0 += 64) {
        const int64_t m = std::min<int64_t>(64, n_future - j0);

        std::vector<int32_t> pos(m);
        for (int64_t j = 0; j < m; ++j) {
            pos[j] = sc.next_pos + (int32_t) (j0 + j);
        }

        ggml_tensor * x = ggml_repeat_4d(ctx, eye, sc.d_k, sc.d_k, m, 1);
        x = sc.rope->apply(ctx, x, sc.inputs.add_i32(ctx, sc.rope->pos_data(pos)));
        x = capkv_build_sum1(ctx, ggml_reshape_3d(ctx, x, sc.d_k*sc.d_k, m, 1));

        sum = sum ? ggml_add(ctx, sum, x) : x;
    }

    return sc.k_rot(ggml_reshape_2d(ctx, ggml_scale(ctx, sum, 1.0f/n_future), sc.d_k, sc.d_k));
}

ggml_tensor * capkv_build_key_cos(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * kn = ggml_l2_norm(ctx, sc.k, 1e-12f);                      // [d_k, n, n_head_kv]
    ggml_tensor * km = ggml_l2_norm(ctx, capkv_build_sum1(ctx, kn), 1e-12f); // [d_k, 1, n_head_kv]

    return ggml_reshape_2d(ctx, capkv_build_dot(ctx, kn, km), sc.n, sc.n_head_kv);
}

//
// leverage
//

// |L^-1 x_i|^2: x [d, n, n_head_kv], l_inv [d, d, n_head] -> [n, 1, n_head]
static ggml_tensor * capkv_build_sqnorm(ggml_context * ctx, bool on_host, ggml_tensor * x, ggml_tensor * l_inv) {
    if (capkv_use_kernels(on_host)) {
        return capkv_build_sqnorm_cpu(ctx, x, l_inv);
    }

    return capkv_build_sum1(ctx, ggml_sqr(ctx, capkv_build_dot(ctx, x, l_inv)));
}

ggml_tensor * capkv_build_gram(ggml_context * ctx, bool on_host, ggml_tensor * x, ggml_tensor * w, int64_t i0) {
    if (capkv_use_kernels(on_host)) {
        return capkv_build_gram_cpu(ctx, x, w, i0);
    }

    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];

    const int64_t n_head    = w->ne[2];
    const int64_t n_head_kv = x->ne[2];
    const int64_t r         = n_head/n_head_kv;

    ggml_tensor * xt = ggml_cont(ctx, ggml_permute(ctx, x, 1, 0, 2, 3)); // [n, d, n_head_kv]

    // [n, d, r, n_head_kv]: the query heads of a group share the vectors, not the weights
    ggml_tensor * xtw = ggml_reshape_4d(ctx, xt, n, d, 1, n_head_kv);
    xtw = r > 1 ? ggml_repeat_4d(ctx, xtw, n, d, r, n_head_kv) : xtw;
    xtw = ggml_mul(ctx, xtw, ggml_reshape_4d(ctx, w, n, 1, r, n_head_kv));
    xtw = ggml_reshape_3d(ctx, xtw, n, d*r, n_head_kv);

    auto from_i0 = [&](ggml_tensor * t) {
        return i0 == 0 ? t : ggml_cont(ctx, ggml_view_3d(ctx, t, n - i0, t->ne[1], t->ne[2], t->nb[1], t->nb[2], i0*t->nb[0]));
    };

    ggml_tensor * m = ggml_mul_mat(ctx, from_i0(xt), from_i0(xtw)); // [d, d*r, n_head_kv]
    ggml_prec_set_acc(m, GGML_PREC_F32);

    return ggml_reshape_3d(ctx, m, d, d, n_head);
}

ggml_tensor * capkv_build_ridge(const capkv_score_ctx & sc, const capkv_ridge & ridge) {
    return sc.inputs.add_f32(sc.ctx, { ridge.abs, ridge.rel }, 2, 1);
}

ggml_tensor * capkv_build_leverage(const capkv_score_ctx & sc, ggml_tensor * x, const capkv_weights & weights, ggml_tensor * ridge) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * w  = weights.w;
    ggml_tensor * we = weights.eps > 0.0f ? ggml_scale_bias(ctx, w, 1.0f, weights.eps) : w;

    ggml_tensor * m     = capkv_build_gram(ctx, sc.on_host, x, we, weights.i0);
    ggml_tensor * l_inv = capkv_build_cholesky_inv(ctx, m, ridge);                         // [d, d, n_head]
    ggml_tensor * s     = ggml_mul(ctx, capkv_build_sqnorm(ctx, sc.on_host, x, l_inv), w); // [n, 1, n_head]

    return sc.on_host ? capkv_build_refine(ctx, m, ridge, s, x, w, weights.eps, weights.i0) : s;
}
