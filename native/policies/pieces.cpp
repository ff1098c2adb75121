#include "pieces.h"

#include "kernels/inverse.h"

#include <algorithm>
#include <cmath>

//
// tiles
//

ggml_tensor * capkv_build_tiles(const capkv_score_ctx & sc, const capkv_entries & f) {
    std::vector<ggml_tensor *> parts;
    for (int64_t i = 0; i < sc.n; i += sc.n_tile) {
        parts.push_back(f(i, std::min(sc.n_tile, sc.n - i)));
    }

    return capkv_build_join(sc.ctx, std::move(parts), 0);
}

ggml_tensor * capkv_build_tile_sum(const capkv_score_ctx & sc, const capkv_entries & f, int64_t i0) {
    ggml_tensor * sum = nullptr;
    for (int64_t i = i0; i < sc.n; i += sc.n_tile) {
        ggml_tensor * cur = f(i, std::min(sc.n_tile, sc.n - i));
        sum = sum ? ggml_add(sc.ctx, sum, cur) : cur;
    }

    return sum;
}

ggml_tensor * capkv_build_part(ggml_context * ctx, ggml_tensor * x, int dim, int64_t i0, int64_t n) {
    if (n == x->ne[dim]) {
        return x;
    }
    return ggml_cont(ctx, ggml_view_3d(ctx, x, dim == 0 ? n : x->ne[0], dim == 1 ? n : x->ne[1], x->ne[2], x->nb[1], x->nb[2], i0*x->nb[dim]));
}

//
// of heads
//

ggml_tensor * capkv_build_group_mean(const capkv_score_ctx & sc, ggml_tensor * x) {
    const int64_t r = x->ne[2]/sc.n_head_kv;

    if (r > 1) {
        x = ggml_cont(sc.ctx, ggml_reshape_3d(sc.ctx, x, sc.n, r, sc.n_head_kv));
        x = ggml_scale(sc.ctx, capkv_build_sum1(sc.ctx, x), 1.0f/r);
    }

    return ggml_reshape_2d(sc.ctx, x, sc.n, sc.n_head_kv);
}

//
// attention
//

// how many entries each query sees, those at positions up to its own: [m, n_head_kv]
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

ggml_tensor * capkv_build_uniform(const capkv_score_ctx & sc) {
    return ggml_fill(sc.ctx, ggml_new_tensor_3d(sc.ctx, GGML_TYPE_F32, sc.n, 1, sc.n_head), 1.0f/sc.n);
}

// queries rotated to pos, in the form that cached keys are stored in: [d_k, n_head, m] -> [d_k, m, n_head]
static ggml_tensor * capkv_build_queries(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos) {
    q = sc.k_rot(sc.rotate(q, pos));

    return ggml_cont(sc.ctx, ggml_permute(sc.ctx, q, 0, 2, 1, 3));
}

ggml_tensor * capkv_build_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos) {
    ggml_tensor * n_vis = sc.inputs.add_f32(sc.ctx, capkv_n_visible(sc, pos), pos.size(), sc.n_head_kv);

    q = capkv_build_queries(sc, q, pos);

    // each query looks at all entries, but some queries at a time take less memory
    const int64_t m      = q->ne[1];
    const int64_t m_part = std::max<int64_t>(1, m*sc.n_tile/sc.n);

    ggml_tensor * k   = sc.k(0, sc.n);
    ggml_tensor * sum = nullptr;

    for (int64_t j = 0; j < m; j += m_part) {
        const int64_t m_cur = std::min(m_part, m - j);

        ggml_tensor * w = capkv_get_kernels(sc.on_host).mean_softmax(
                sc.ctx, k, capkv_build_part(sc.ctx, q, 1, j, m_cur), capkv_build_part(sc.ctx, n_vis, 0, j, m_cur), sc.kq_scale);
        if (m_cur < m) {
            w = ggml_scale(sc.ctx, w, (float) m_cur/m);
        }
        sum = sum ? ggml_add(sc.ctx, sum, w) : w;
    }

    return sum;
}

ggml_tensor * capkv_build_expected_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos, float spread) {
    q = capkv_build_queries(sc, q, pos);

    ggml_tensor * x = capkv_build_tiles(sc, [&](int64_t i0, int64_t n) {
        return capkv_get_kernels(sc.on_host).mean_var(sc.ctx, sc.k(i0, n), q, sc.kq_scale, spread);
    });

    // entries whose weights are below what f32 holds would all have the same score, 0
    return ggml_scale_bias(sc.ctx, ggml_soft_max(sc.ctx, x), 1.0f, 1e-20f);
}

ggml_tensor * capkv_build_mean_rotation(const capkv_score_ctx & sc, int64_t n_future) {
    ggml_context * ctx = sc.ctx;

    // rotate unit vectors, at 64 positions at a time to bound the memory
    ggml_tensor * eye = sc.eye(sc.d_k);

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
        x = sc.rotate(x, pos);
        x = capkv_build_sum1(ctx, ggml_reshape_3d(ctx, x, sc.d_k*sc.d_k, m, 1));

        sum = sum ? ggml_add(ctx, sum, x) : x;
    }

    return sc.k_rot(ggml_reshape_2d(ctx, ggml_scale(ctx, sum, 1.0f/n_future), sc.d_k, sc.d_k));
}

// [n, n_head_kv]
static ggml_tensor * capkv_build_sqr_norm(const capkv_score_ctx & sc, const capkv_entries & x) {
    return capkv_build_tiles(sc, [&](int64_t i0, int64_t n) {
        return ggml_reshape_2d(sc.ctx, ggml_sum_rows(sc.ctx, ggml_sqr(sc.ctx, x(i0, n))), n, sc.n_head_kv);
    });
}

ggml_tensor * capkv_build_norm(const capkv_score_ctx & sc, const capkv_entries & x) {
    return ggml_sqrt(sc.ctx, capkv_build_sqr_norm(sc, x));
}

ggml_tensor * capkv_build_key_cos(const capkv_score_ctx & sc) {
    const auto & kernels = capkv_get_kernels(sc.on_host);

    ggml_tensor * sum  = capkv_build_tile_sum(sc, [&](int64_t i0, int64_t n) { return kernels.unit_sum(sc.ctx, sc.k(i0, n)); });
    ggml_tensor * mean = ggml_l2_norm(sc.ctx, sum, 1e-12f); // [d_k, 1, n_head_kv]
    ggml_tensor * cos  = capkv_build_tiles(sc, [&](int64_t i0, int64_t n) { return kernels.unit_dot(sc.ctx, sc.k(i0, n), mean); });

    return ggml_reshape_2d(sc.ctx, cos, sc.n, sc.n_head_kv);
}

//
// leverage
//

ggml_tensor * capkv_build_ridge(const capkv_score_ctx & sc, const capkv_ridge & ridge) {
    return sc.inputs.add_f32(sc.ctx, { ridge.abs, ridge.rel }, 2, 1);
}

ggml_tensor * capkv_build_gram(const capkv_score_ctx & sc, const capkv_entries & x, ggml_tensor * w, int64_t i0) {
    const auto & kernels = capkv_get_kernels(sc.on_host);

    if (sc.n <= sc.n_tile) {
        return kernels.gram(sc.ctx, x(0, sc.n), w, i0);
    }
    return capkv_build_tile_sum(sc, [&](int64_t i, int64_t n) { return kernels.gram(sc.ctx, x(i, n), capkv_build_part(sc.ctx, w, 0, i, n), 0); }, i0);
}

// by a factor: m = sum_i (w_i + eps) x_i x_i^T, [d, d, n_head]
static ggml_tensor * capkv_build_leverage_factor(const capkv_score_ctx & sc, const capkv_entries & x, ggml_tensor * m, ggml_tensor * w, ggml_tensor * ridge) {
    ggml_tensor * l_inv = capkv_build_cholesky_inv(sc.ctx, m, ridge); // [d, d, n_head]

    ggml_tensor * s = capkv_build_tiles(sc, [&](int64_t i0, int64_t n) { return capkv_get_kernels(sc.on_host).sqnorm(sc.ctx, x(i0, n), l_inv); });

    return ggml_mul(sc.ctx, s, w); // [n, 1, n_head]
}

ggml_tensor * capkv_build_leverage(const capkv_score_ctx & sc, const capkv_entries & x, const capkv_weights & weights, ggml_tensor * ridge) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * w  = weights.w;
    ggml_tensor * we = weights.eps > 0.0f ? ggml_scale_bias(ctx, w, 1.0f, weights.eps) : w;

    ggml_tensor * m = capkv_build_gram(sc, x, we, weights.i0);
    ggml_tensor * s = capkv_build_leverage_factor(sc, x, m, w, ridge);

    return sc.on_host ? capkv_build_refine(ctx, m, ridge, s, x(0, sc.n), w, weights.eps, weights.i0) : s;
}

// by products of matrices
static ggml_tensor * capkv_build_value_leverage_products(const capkv_score_ctx & sc, ggml_tensor * w, float lambda) {
    ggml_context * ctx = sc.ctx;

    const int64_t d = sc.d_v;
    const int64_t n = sc.n;
    const int64_t g = sc.n_head_kv;
    const int64_t r = sc.n_head/g;

    // the mean eigenvalue of sum_i w_i v_i v_i^T: [1, 1, r, n_head_kv]
    ggml_tensor * sqr = ggml_reshape_4d(ctx, capkv_build_sqr_norm(sc, sc.v), n, 1, 1, g);
    ggml_tensor * mean = ggml_scale(ctx, ggml_sum_rows(ctx, ggml_mul(ctx, ggml_reshape_4d(ctx, w, n, 1, r, g), sqr)), 1.0f/d);

    // weights divided by it: leverage stays what it is, and no factor is too large or too small for half precision
    mean = ggml_clamp(ctx, mean, 1e-30f, INFINITY);
    w    = ggml_reshape_3d(ctx, ggml_div(ctx, ggml_reshape_4d(ctx, w, n, 1, r, g), mean), n, 1, sc.n_head);

    ggml_tensor * a_inv = capkv_build_inverse(ctx, capkv_build_gram(sc, sc.v, w, 0), sc.eye(d), lambda); // [d, d, n_head]

    // to round v to few bits is to score a vector near v, but A^-1 has large and small eigenvalues: it needs more bits
    a_inv = ggml_reshape_3d(ctx, capkv_build_split(ctx, a_inv), 2*d, d*r, g);

    ggml_tensor * s = capkv_build_tiles(sc, [&](int64_t i0, int64_t n) {
        ggml_tensor * v = sc.v(i0, n);

        ggml_tensor * y = capkv_build_mul_mat(ctx, a_inv, ggml_concat(ctx, v, v, 0));
        y = ggml_mul(ctx, ggml_reshape_4d(ctx, y, d, r, n, g), ggml_reshape_4d(ctx, v, d, 1, n, g));

        return capkv_build_entries_first(ctx, ggml_sum_rows(ctx, y));
    });

    return ggml_mul(ctx, s, w);
}

ggml_tensor * capkv_build_value_leverage(const capkv_score_ctx & sc, ggml_tensor * w, float lambda) {
    if (!sc.on_host) {
        return capkv_build_value_leverage_products(sc, w, lambda);
    }
    return capkv_build_leverage_factor(sc, sc.v, capkv_build_gram(sc, sc.v, w, 0), w, capkv_build_ridge(sc, { 0.0f, lambda }));
}
