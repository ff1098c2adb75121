// the kernels as graphs of ggml's operators

#include "kernels.h"

//
// parts
//

ggml_tensor * capkv_build_mul_mat(ggml_context * ctx, ggml_tensor * a, ggml_tensor * b) {
    ggml_tensor * res = ggml_mul_mat(ctx, a, b);
    ggml_prec_set_acc(res, GGML_PREC_F32);
    return res;
}

ggml_tensor * capkv_build_join(ggml_context * ctx, std::vector<ggml_tensor *> parts, int dim) {
    for (; parts[0] && parts.size() > 1; parts.resize((parts.size() + 1)/2)) {
        for (size_t i = 0; i + 1 < parts.size(); i += 2) {
            parts[i/2] = ggml_concat(ctx, parts[i], parts[i + 1], dim);
        }
        if (parts.size() % 2) {
            parts[parts.size()/2] = parts.back();
        }
    }
    return parts[0];
}

ggml_tensor * capkv_build_sum1(ggml_context * ctx, ggml_tensor * x) {
    ggml_tensor * rest = nullptr; // [n, 1, n_head]

    auto rows = [&](int64_t i0, int64_t n_rows) {
        return ggml_view_3d(ctx, x, x->ne[0], n_rows, x->ne[2], x->nb[1], x->nb[2], i0*x->nb[1]);
    };

    // add the second half of the rows to the first until one is left: fast on every device, with log2(m) roundings
    while (x->ne[1] > 1) {
        const int64_t m = x->ne[1];
        if (m % 2) {
            rest = rest ? ggml_add(ctx, rows(m - 1, 1), rest) : rows(m - 1, 1);
        }
        x = ggml_add(ctx, rows(0, m/2), rows(m/2, m/2));
    }

    return rest ? ggml_add(ctx, x, rest) : x;
}

ggml_tensor * capkv_build_dot(ggml_context * ctx, ggml_tensor * x, ggml_tensor * y) {
    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];
    const int64_t m = y->ne[1];

    const int64_t n_head    = y->ne[2];
    const int64_t n_head_kv = x->ne[2];

    // the query heads of a group side by side: one product per KV head
    y = ggml_reshape_3d(ctx, y, d, m*(n_head/n_head_kv), n_head_kv);

    return ggml_reshape_3d(ctx, capkv_build_mul_mat(ctx, x, y), n, m, n_head);
}

ggml_tensor * capkv_build_entries_first(ggml_context * ctx, ggml_tensor * x) {
    const int64_t r = x->ne[1];
    const int64_t n = x->ne[2];

    x = ggml_reshape_3d(ctx, x, r, n, x->ne[3]);
    x = r > 1 ? ggml_cont(ctx, ggml_permute(ctx, x, 1, 0, 2, 3)) : x;

    return ggml_reshape_3d(ctx, x, n, 1, r*x->ne[2]);
}

//
// kernels
//

// added to the logits: 0 where a query sees the entry, else so low that its weight is 0; n_vis [m, n_head_kv] -> F32 [n, m, 1, n_head_kv]
static ggml_tensor * capkv_build_causal_bias(ggml_context * ctx, ggml_tensor * n_vis, int64_t n) {
    const int64_t m = n_vis->ne[0];

    ggml_tensor * idx = ggml_repeat_4d(ctx, ggml_arange(ctx, 0.5f, (float) n, 1.0f), n, m, 1, n_vis->ne[1]);
    ggml_tensor * end = ggml_reshape_4d(ctx, n_vis, 1, m, 1, n_vis->ne[1]);

    return ggml_scale(ctx, ggml_step(ctx, ggml_sub(ctx, idx, end)), -1e30f);
}

static ggml_tensor * capkv_mean_softmax_graph(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, ggml_tensor * n_vis, float scale) {
    const int64_t n = k->ne[1];
    const int64_t m = q->ne[1];

    const int64_t n_head    = q->ne[2];
    const int64_t n_head_kv = k->ne[2];

    ggml_tensor * kq = ggml_scale(ctx, capkv_build_dot(ctx, k, q), scale); // [n, m, n_head]

    kq = ggml_reshape_4d(ctx, kq, n, m, n_head/n_head_kv, n_head_kv);
    kq = ggml_add(ctx, kq, capkv_build_causal_bias(ctx, n_vis, n));
    kq = ggml_soft_max(ctx, ggml_reshape_3d(ctx, kq, n, m, n_head));

    return ggml_scale(ctx, capkv_build_sum1(ctx, kq), 1.0f/m);
}

static ggml_tensor * capkv_mean_var_graph(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, float scale, float spread) {
    const int64_t d = k->ne[0];
    const int64_t n = k->ne[1];
    const int64_t m = q->ne[1];

    const int64_t n_head    = q->ne[2];
    const int64_t n_head_kv = k->ne[2];
    const int64_t r         = n_head/n_head_kv;

    // the queries in rows, so that a sum over them is one operation
    ggml_tensor * qk = capkv_build_mul_mat(ctx, ggml_reshape_3d(ctx, q, d, m*r, n_head_kv), k);
    qk = ggml_reshape_4d(ctx, ggml_scale(ctx, qk, scale), m, r, n, n_head_kv);

    ggml_tensor * mean = ggml_scale(ctx, ggml_sum_rows(ctx, qk), 1.0f/m);                       // [1, r, n, n_head_kv]
    ggml_tensor * var  = ggml_sum_rows(ctx, ggml_sqr(ctx, ggml_sub(ctx, qk, mean)));            // times m

    return capkv_build_entries_first(ctx, ggml_add(ctx, mean, ggml_scale(ctx, var, spread/m))); // [n, 1, n_head]
}

static ggml_tensor * capkv_gram_graph(ggml_context * ctx, ggml_tensor * x, ggml_tensor * w, int64_t i0) {
    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];

    const int64_t n_head    = w->ne[2];
    const int64_t n_head_kv = x->ne[2];
    const int64_t r         = n_head/n_head_kv;

    ggml_tensor * xt = ggml_cont(ctx, ggml_permute(ctx, x, 1, 0, 2, 3)); // [n, d, n_head_kv]

    // [n, d, r, n_head_kv]: the query heads of a group share the vectors, not the weights
    ggml_tensor * xtw = ggml_reshape_4d(ctx, xt, n, d, 1, n_head_kv);
    xtw = r > 1 ? ggml_repeat_4d(ctx, xtw, n, d, r, n_head_kv) : xtw;

    // the root of the weight in both factors: however a backend rounds them, it rounds both alike, and the sum has no negative
    // eigenvalue
    xtw = ggml_mul(ctx, xtw, ggml_sqrt(ctx, ggml_reshape_4d(ctx, w, n, 1, r, n_head_kv)));
    xtw = ggml_reshape_3d(ctx, xtw, n, d, n_head);

    if (i0 > 0) {
        xtw = ggml_cont(ctx, ggml_view_3d(ctx, xtw, n - i0, d, n_head, xtw->nb[1], xtw->nb[2], i0*xtw->nb[0]));
    }

    return capkv_build_mul_mat(ctx, xtw, xtw); // [d, d, n_head]
}

static ggml_tensor * capkv_sqnorm_graph(ggml_context * ctx, ggml_tensor * x, ggml_tensor * l_inv) {
    return capkv_build_sum1(ctx, ggml_sqr(ctx, capkv_build_dot(ctx, x, l_inv)));
}

static ggml_tensor * capkv_unit_sum_graph(ggml_context * ctx, ggml_tensor * x) {
    x = ggml_cont(ctx, ggml_permute(ctx, ggml_l2_norm(ctx, x, 1e-12f), 1, 0, 2, 3)); // [n, d, n_head_kv]

    return ggml_reshape_3d(ctx, ggml_sum_rows(ctx, x), x->ne[1], 1, x->ne[2]);
}

static ggml_tensor * capkv_unit_dot_graph(ggml_context * ctx, ggml_tensor * x, ggml_tensor * y) {
    return capkv_build_dot(ctx, ggml_l2_norm(ctx, x, 1e-12f), y);
}

extern const capkv_kernels capkv_kernels_graph = {
    /*.mean_softmax =*/ capkv_mean_softmax_graph,
    /*.mean_var     =*/ capkv_mean_var_graph,
    /*.gram         =*/ capkv_gram_graph,
    /*.sqnorm       =*/ capkv_sqnorm_graph,
    /*.unit_sum     =*/ capkv_unit_sum_graph,
    /*.unit_dot     =*/ capkv_unit_dot_graph,
};
