#include "capkv-policy.h"

#include "capkv-cholesky.h"
#include "capkv-cpu.h"
#include "capkv-params.h"

#include "ggml-backend.h"

#include <cstring>

//
// the table
//

static const capkv_policy * const capkv_policies[] = {
    &capkv_policy_capkv,
    &capkv_policy_capkv_ref,
    &capkv_policy_streaming,
    &capkv_policy_random,
};

const capkv_policy * capkv_policy_find(const std::string & name) {
    for (const auto * policy : capkv_policies) {
        if (name == policy->name) {
            return policy;
        }
    }
    return nullptr;
}

size_t capkv_n_policies(void) {
    return sizeof(capkv_policies)/sizeof(capkv_policies[0]);
}

const capkv_policy_info * capkv_get_policy(size_t i) {
    static const auto infos = [] {
        std::vector<capkv_policy_info> res;
        for (const auto * policy : capkv_policies) {
            res.push_back({ policy->name, policy->help });
        }
        return res;
    }();

    return i < infos.size() ? &infos[i] : nullptr;
}

//
// inputs
//

static ggml_tensor * capkv_inputs_add(capkv_inputs & inputs, ggml_tensor * t, const void * data) {
    ggml_set_input(t);

    const auto * bytes = (const uint8_t *) data;
    inputs.items.push_back({ t, std::vector<uint8_t>(bytes, bytes + ggml_nbytes(t)) });

    return t;
}

ggml_tensor * capkv_inputs::add_i32(ggml_context * ctx, const std::vector<int32_t> & data) {
    return capkv_inputs_add(*this, ggml_new_tensor_1d(ctx, GGML_TYPE_I32, data.size()), data.data());
}

ggml_tensor * capkv_inputs::add_i64(ggml_context * ctx, const std::vector<int64_t> & data) {
    return capkv_inputs_add(*this, ggml_new_tensor_1d(ctx, GGML_TYPE_I64, data.size()), data.data());
}

ggml_tensor * capkv_inputs::add_f32(ggml_context * ctx, const std::vector<float> & data, int64_t ne0, int64_t ne1) {
    GGML_ASSERT((int64_t) data.size() == ne0*ne1);

    return capkv_inputs_add(*this, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, ne0, ne1), data.data());
}

void capkv_inputs::set() const {
    for (const auto & item : items) {
        // a policy may have left an input unused
        if (item.t->buffer) {
            ggml_backend_tensor_set(item.t, item.data.data(), 0, item.data.size());
        }
    }
}

//
// RoPE
//

ggml_tensor * capkv_rope::apply(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos) const {
    if (!on) {
        return x;
    }

    ggml_tensor * res = ggml_rope_ext(ctx, x, pos, factors, params[1], params[2], params[4], 0, 0, 0, 0, 0, 0);

    // take the node's own parameters as they are, whatever they hold
    memcpy(res->op_params, params, sizeof(params));

    return res;
}

std::vector<int32_t> capkv_rope::pos_data(const std::vector<int32_t> & pos) const {
    if (!on || !is_mrope()) {
        return pos;
    }

    // a text token: the same position in three of the four sections
    const size_t n = pos.size();
    std::vector<int32_t> res(4*n, 0);
    for (size_t i = 0; i < 3*n; ++i) {
        res[i] = pos[i % n];
    }
    return res;
}

//
// seeded numbers
//

uint64_t capkv_hash(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30))*0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27))*0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

int32_t capkv_res_offset(uint32_t seed, int64_t j) {
    return (int32_t) (capkv_hash(capkv_hash(0x0ff5e7ull + seed) + (uint64_t) j) % 256);
}

//
// shared pieces
//

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

// inner products of all entries with vectors per query head: x [d, n, n_head_kv], y [d, m, n_head] -> [n, m, n_head]
static ggml_tensor * capkv_build_dot(const capkv_score_ctx & sc, ggml_tensor * x, ggml_tensor * y) {
    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];
    const int64_t m = y->ne[1];

    // the query heads of a group side by side: one product per KV head
    y = ggml_reshape_3d(sc.ctx, y, d, m*(sc.n_head/sc.n_head_kv), sc.n_head_kv);

    ggml_tensor * res = ggml_mul_mat(sc.ctx, x, y);
    ggml_prec_set_acc(res, GGML_PREC_F32);

    return ggml_reshape_3d(sc.ctx, res, n, m, sc.n_head);
}

ggml_tensor * capkv_build_mean_softmax(const capkv_score_ctx & sc, ggml_tensor * q) {
    if (sc.on_host && capkv_cpu_has_kernels()) {
        return capkv_build_mean_softmax_cpu(sc.ctx, sc.k, q, sc.kq_scale);
    }

    ggml_tensor * kq = capkv_build_dot(sc, sc.k, q); // [n, m, n_head]
    kq = ggml_soft_max_ext(sc.ctx, kq, nullptr, sc.kq_scale, 0.0f);

    return ggml_scale(sc.ctx, capkv_build_sum1(sc.ctx, kq), 1.0f/q->ne[1]);
}

// |L^-1 v_i|^2: l_inv [d_v, d_v, n_head] -> [n, 1, n_head]
static ggml_tensor * capkv_build_sqnorm(const capkv_score_ctx & sc, ggml_tensor * l_inv) {
    if (sc.on_host && capkv_cpu_has_kernels()) {
        return capkv_build_sqnorm_cpu(sc.ctx, sc.v, l_inv);
    }

    return capkv_build_sum1(sc.ctx, ggml_sqr(sc.ctx, capkv_build_dot(sc, sc.v, l_inv)));
}

// sum_i w_i v_i v_i^T over the entries from i0 on: w [n, 1, n_head] -> [d_v, d_v, n_head]
static ggml_tensor * capkv_build_gram(const capkv_score_ctx & sc, ggml_tensor * w, int64_t i0) {
    ggml_context * ctx = sc.ctx;

    if (sc.on_host && capkv_cpu_has_kernels()) {
        return capkv_build_gram_cpu(ctx, sc.v, w, i0);
    }

    const int64_t n = sc.n;
    const int64_t d = sc.d_v;
    const int64_t r = sc.n_head/sc.n_head_kv;

    ggml_tensor * vt = ggml_cont(ctx, ggml_permute(ctx, sc.v, 1, 0, 2, 3)); // [n, d_v, n_head_kv]

    // [n, d_v, r, n_head_kv]: the query heads of a group share the values, not the weights
    ggml_tensor * vtw = ggml_reshape_4d(ctx, vt, n, d, 1, sc.n_head_kv);
    vtw = r > 1 ? ggml_repeat_4d(ctx, vtw, n, d, r, sc.n_head_kv) : vtw;
    vtw = ggml_mul(ctx, vtw, ggml_reshape_4d(ctx, w, n, 1, r, sc.n_head_kv));
    vtw = ggml_reshape_3d(ctx, vtw, n, d*r, sc.n_head_kv);

    auto from_i0 = [&](ggml_tensor * t) {
        return i0 == 0 ? t : ggml_cont(ctx, ggml_view_3d(ctx, t, n - i0, t->ne[1], t->ne[2], t->nb[1], t->nb[2], i0*t->nb[0]));
    };

    ggml_tensor * m = ggml_mul_mat(ctx, from_i0(vt), from_i0(vtw)); // [d_v, d_v*r, n_head_kv]
    ggml_prec_set_acc(m, GGML_PREC_F32);

    return ggml_reshape_3d(ctx, m, d, d, sc.n_head);
}

ggml_tensor * capkv_build_leverage(capkv_score_ctx & sc, ggml_tensor * w, float eps, int64_t i0, const capkv_ridge * ridge) {
    ggml_context * ctx = sc.ctx;

    const int64_t r = sc.n_head/sc.n_head_kv;

    ggml_tensor * m     = capkv_build_gram(sc, eps > 0.0f ? ggml_scale_bias(ctx, w, 1.0f, eps) : w, i0);
    ggml_tensor * l_inv = capkv_build_cholesky_inv(ctx, m, ridge); // [d_v, d_v, n_head]

    ggml_tensor * s = ggml_mul(ctx, capkv_build_sqnorm(sc, l_inv), w); // [n, 1, n_head]

    s = ggml_cont(ctx, ggml_reshape_3d(ctx, s, sc.n, r, sc.n_head_kv));
    s = ggml_scale(ctx, capkv_build_sum1(ctx, s), 1.0f/r);

    return ggml_reshape_2d(ctx, s, sc.n, sc.n_head_kv);
}
