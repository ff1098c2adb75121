// the kernels fused into custom ops, for data in host memory

#include "kernels.h"

#include "cpu-target.h"

#include <algorithm>
#include <cstring>
#include <vector>

const capkv_kernels & capkv_get_kernels(bool on_host) {
    return on_host && capkv_cpu_target_current().fused ? capkv_kernels_cpu : capkv_kernels_graph;
}

static const float * capkv_head(const ggml_tensor * t, int64_t h) {
    return (const float *) ((const char *) t->data + h*t->nb[2]);
}

static float * capkv_head(ggml_tensor * t, int64_t h) {
    return (float *) ((char *) t->data + h*t->nb[2]);
}

static int64_t capkv_pad(int64_t n, int64_t unit) {
    return (n + unit - 1)/unit*unit;
}

static void capkv_mean_softmax_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const auto & cpu = capkv_cpu_target_current();

    const ggml_tensor * k = dst->src[0];
    const ggml_tensor * q = dst->src[1];

    const int64_t d = k->ne[0];
    const int64_t n = k->ne[1];
    const int64_t m = q->ne[1];
    const int64_t r = q->ne[2]/k->ne[2];

    float scale;
    memcpy(&scale, dst->src[2]->data, sizeof(scale));

    const auto * n_vis = (const float *) dst->src[3]->data; // [m, n_head_kv]

    const int64_t n_pad = capkv_pad(n, cpu.n_block);

    std::vector<float> tiles(n_pad*d); // of one KV head
    std::vector<float> logits(n_pad*cpu.n_cols);
    std::vector<float> buf(d*cpu.n_cols);

    int64_t hk_loaded = -1;

    // each thread takes neighbouring heads, so that it loads the tiles of a KV head once
    const int64_t n_head = q->ne[2];
    for (int64_t h = n_head*ith/nth; h < n_head*(ith + 1)/nth; ++h) {
        const int64_t hk = h/r;
        if (hk != hk_loaded) {
            hk_loaded = hk;
            for (int64_t i = 0; i < n; i += cpu.n_block) {
                cpu.load_tile(capkv_head(k, hk), d, n, i, tiles.data() + i*d);
            }
        }

        cpu.mean_softmax(tiles.data(), capkv_head(q, h), n_vis + hk*m, d, n, m, scale, logits.data(), buf.data(), capkv_head(dst, h));
    }
}

// for this thread's share of the tiles of x [d, n, n_head_kv], and each of the n_head query heads that share a tile: f(tile, h, out)
// computes a value of each entry, which go to dst [n, 1, n_head]
template <typename F>
static void capkv_each_tile(const capkv_cpu_target & cpu, const ggml_tensor * x, ggml_tensor * dst, int ith, int nth, F && f) {
    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];
    const int64_t r = dst->ne[2]/x->ne[2];

    std::vector<float> tile(cpu.n_block*d);
    std::vector<float> out(cpu.n_block);

    const int64_t n_blocks = capkv_pad(n, cpu.n_block)/cpu.n_block;
    const int64_t n_work   = x->ne[2]*n_blocks;

    for (int64_t iw = n_work*ith/nth; iw < n_work*(ith + 1)/nth; ++iw) {
        const int64_t hk = iw/n_blocks;
        const int64_t i0 = iw%n_blocks*cpu.n_block;

        cpu.load_tile(capkv_head(x, hk), d, n, i0, tile.data());

        for (int64_t h = hk*r; h < (hk + 1)*r; ++h) {
            f(tile.data(), h, out.data());
            std::copy_n(out.data(), std::min(cpu.n_block, n - i0), capkv_head(dst, h) + i0);
        }
    }
}

static void capkv_mean_var_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const auto & cpu = capkv_cpu_target_current();

    const ggml_tensor * k = dst->src[0];
    const ggml_tensor * q = dst->src[1];

    const int64_t d = k->ne[0];
    const int64_t m = q->ne[1];

    float args[2]; // scale of the logits, weight of the variance
    memcpy(args, dst->src[2]->data, sizeof(args));

    std::vector<float> buf(d*cpu.n_cols);

    capkv_each_tile(cpu, k, dst, ith, nth, [&](const float * tile, int64_t h, float * out) {
        cpu.mean_var(tile, capkv_head(q, h), d, m, args[0], args[1], buf.data(), out);
    });
}

static void capkv_sqnorm_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const auto & cpu = capkv_cpu_target_current();

    const ggml_tensor * x     = dst->src[0];
    const ggml_tensor * l_inv = dst->src[1];

    const int64_t d = x->ne[0];

    std::vector<float> buf(d*cpu.n_cols);

    capkv_each_tile(cpu, x, dst, ith, nth, [&](const float * tile, int64_t h, float * out) {
        cpu.sqnorm(tile, capkv_head(l_inv, h), d, buf.data(), out);
    });
}

static void capkv_gram_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & cpu = capkv_cpu_target_current();

    const ggml_tensor * v = dst->src[0];
    const ggml_tensor * w = dst->src[1];

    const int64_t d      = v->ne[0];
    const int64_t n      = v->ne[1];
    const int64_t n_head = w->ne[2];
    const int64_t r      = n_head/v->ne[2];
    const int64_t first  = (int64_t) (intptr_t) userdata;
    const int64_t d_pad  = capkv_pad(d, cpu.n_block);
    const int64_t ld     = capkv_pad(d, cpu.n_cols);

    std::vector<float> padded;
    std::vector<float> sum(ld*d_pad);
    std::vector<float> buf(CAPKV_CPU_PART*cpu.n_block);

    int64_t hk_padded = -1;

    const int64_t n_rows = ld/cpu.n_cols; // groups of rows
    const int64_t end    = n_head*n_rows*(ith + 1)/nth;

    for (int64_t i_row = n_head*n_rows*ith/nth, i_next; i_row < end; i_row = i_next) {
        const int64_t h = i_row/n_rows;

        i_next = std::min(end, (h + 1)*n_rows);

        const int64_t a0 = (i_row - h*n_rows)*cpu.n_cols;
        const int64_t a1 = std::min(d, (i_next - h*n_rows)*cpu.n_cols);

        const float * vh = capkv_head(v, h/r);
        if (ld != d) {
            if (hk_padded != h/r) {
                hk_padded = h/r;
                padded.assign(n*ld, 0.0f);
                for (int64_t i = 0; i < n; ++i) {
                    std::copy_n(vh + i*d, d, padded.begin() + i*ld);
                }
            }
            vh = padded.data();
        }

        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t i = first; i < n; i += CAPKV_CPU_PART) {
            cpu.gram(vh + i*ld, ld, capkv_head(w, h) + i, d, std::min(CAPKV_CPU_PART, n - i), a0, a1, buf.data(), sum.data());
        }

        float * out = capkv_head(dst, h);
        for (int64_t a = a0; a < a1; ++a) {
            for (int64_t b = a; b < d; ++b) {
                out[a*d + b] = out[b*d + a] = sum[(a - a0)*d_pad + b];
            }
        }
    }
}

static void capkv_unit_sum_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * x = dst->src[0];

    std::vector<float> buf(x->ne[0]);

    for (int64_t h = ith; h < x->ne[2]; h += nth) {
        capkv_cpu_target_current().unit_sum(capkv_head(x, h), x->ne[0], x->ne[1], buf.data(), capkv_head(dst, h));
    }
}

static void capkv_unit_dot_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * x = dst->src[0];
    const ggml_tensor * y = dst->src[1];

    const int64_t d  = x->ne[0];
    const int64_t n  = x->ne[1];
    const int64_t i0 = n*ith/nth;
    const int64_t i1 = n*(ith + 1)/nth;

    for (int64_t h = 0; h < x->ne[2]; ++h) {
        capkv_cpu_target_current().unit_dot(capkv_head(x, h) + i0*d, capkv_head(y, h), d, i1 - i0, capkv_head(dst, h) + i0);
    }
}

static void capkv_check_f32(const ggml_tensor * t) {
    GGML_ASSERT(t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] == t->ne[0]*sizeof(float) && t->ne[3] == 1);
}

// a custom op on all threads; result: F32 [ne0, ne1, ne2]
static ggml_tensor * capkv_build_op(
        ggml_context * ctx, int64_t ne0, int64_t ne1, int64_t ne2, std::initializer_list<ggml_tensor *> args, ggml_custom_op_t op, int64_t userdata = 0) {
    for (const auto * t : args) {
        capkv_check_f32(t);
    }

    std::vector<ggml_tensor *> srcs(args);

    return ggml_custom_4d(ctx, GGML_TYPE_F32, ne0, ne1, ne2, 1, srcs.data(), srcs.size(), op, GGML_N_TASKS_MAX, (void *) (intptr_t) userdata);
}

static ggml_tensor * capkv_build_f32(ggml_context * ctx, float x) {
    return ggml_fill(ctx, ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1), x);
}

static ggml_tensor * capkv_mean_softmax_cpu(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, ggml_tensor * n_vis, float scale) {
    return capkv_build_op(ctx, k->ne[1], 1, q->ne[2], { k, q, capkv_build_f32(ctx, scale), n_vis }, capkv_mean_softmax_op);
}

static ggml_tensor * capkv_mean_var_cpu(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, float scale, float spread) {
    ggml_tensor * args = ggml_concat(ctx, capkv_build_f32(ctx, scale), capkv_build_f32(ctx, spread), 0);

    return capkv_build_op(ctx, k->ne[1], 1, q->ne[2], { k, q, args }, capkv_mean_var_op);
}

static ggml_tensor * capkv_gram_cpu(ggml_context * ctx, ggml_tensor * x, ggml_tensor * w, int64_t i0) {
    return capkv_build_op(ctx, x->ne[0], x->ne[0], w->ne[2], { x, w }, capkv_gram_op, i0);
}

static ggml_tensor * capkv_sqnorm_cpu(ggml_context * ctx, ggml_tensor * x, ggml_tensor * l_inv) {
    return capkv_build_op(ctx, x->ne[1], 1, l_inv->ne[2], { x, l_inv }, capkv_sqnorm_op);
}

static ggml_tensor * capkv_unit_sum_cpu(ggml_context * ctx, ggml_tensor * x) {
    return capkv_build_op(ctx, x->ne[0], 1, x->ne[2], { x }, capkv_unit_sum_op);
}

static ggml_tensor * capkv_unit_dot_cpu(ggml_context * ctx, ggml_tensor * x, ggml_tensor * y) {
    return capkv_build_op(ctx, x->ne[1], 1, x->ne[2], { x, y }, capkv_unit_dot_op);
}

extern const capkv_kernels capkv_kernels_cpu = {
    /*.mean_softmax =*/ capkv_mean_softmax_cpu,
    /*.mean_var     =*/ capkv_mean_var_cpu,
    /*.gram         =*/ capkv_gram_cpu,
    /*.sqnorm       =*/ capkv_sqnorm_cpu,
    /*.unit_sum     =*/ capkv_unit_sum_cpu,
    /*.unit_dot     =*/ capkv_unit_dot_cpu,
};
