// the kernels fused into custom ops, for data in host memory

#include "kernels.h"

#include "cpu-tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

const capkv_kernels & capkv_get_kernels(bool on_host) {
#if defined(__AVX2__) || defined(__AVX512F__) || defined(__ARM_NEON)
    const bool has_vectors = true;
#else
    const bool has_vectors = false;
#endif

    return on_host && has_vectors ? capkv_kernels_cpu : capkv_kernels_graph;
}

// e^x for x <= 0, to 2 ulp, in a form that compilers vectorize: 2^k times a polynomial on [-ln2/2, ln2/2]
static inline float capkv_exp(float x) {
    x = x < -87.0f ? -87.0f : x;

    const float magic = x*1.44269504f + 12582912.0f; // the nearest integer, in the low bits
    const float k = magic - 12582912.0f;
    const float r = (x - k*0.693359375f) + k*2.12194440e-4f;

    float p = 1.0f/5040;
    p = p*r + 1.0f/720;
    p = p*r + 1.0f/120;
    p = p*r + 1.0f/24;
    p = p*r + 1.0f/6;
    p = p*r + 0.5f;
    p = p*r + 1.0f;
    p = p*r + 1.0f;

    uint32_t bits; // not a conversion to an integer: that of a NaN, which a damaged state may bring, is undefined
    memcpy(&bits, &magic, sizeof(bits));
    bits = (bits + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));

    return p*scale;
}

// entries whose weights are computed side by side, in loops of this constant length, which the compiler vectorizes
static constexpr int64_t CAPKV_SOFTMAX = 16;
static_assert(CAPKV_BLOCK % CAPKV_SOFTMAX == 0, "rows of logits are padded to whole blocks");

// w += softmax(x scale)*weight, both [n]; x is overwritten and has room for n_pad >= n values, a multiple of CAPKV_SOFTMAX
static void capkv_add_softmax(float * x, float * w, int64_t n, int64_t n_pad, float scale, float weight) {
    std::fill(x + n, x + n_pad, -INFINITY);

    float lane[CAPKV_SOFTMAX];
    std::fill(lane, lane + CAPKV_SOFTMAX, -INFINITY);
    for (int64_t i = 0; i < n_pad; i += CAPKV_SOFTMAX) {
        for (int64_t l = 0; l < CAPKV_SOFTMAX; ++l) {
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
        }
    }
    const float max = *std::max_element(lane, lane + CAPKV_SOFTMAX);

    std::fill(lane, lane + CAPKV_SOFTMAX, 0.0f);
    for (int64_t i = 0; i < n_pad; i += CAPKV_SOFTMAX) {
        for (int64_t l = 0; l < CAPKV_SOFTMAX; ++l) {
            const float e = capkv_exp((x[i + l] - max)*scale);
            x[i + l] = e;
            lane[l] += e;
        }
    }

    double sum = 0.0;
    for (int64_t l = 0; l < CAPKV_SOFTMAX; ++l) {
        sum += lane[l];
    }

    const float f = (float) (weight/sum);
    for (int64_t i = 0; i < n; ++i) {
        w[i] += x[i]*f;
    }
}

static const float * capkv_head(const ggml_tensor * t, int64_t h) {
    return (const float *) ((const char *) t->data + h*t->nb[2]);
}

static float * capkv_head(ggml_tensor * t, int64_t h) {
    return (float *) ((char *) t->data + h*t->nb[2]);
}

// call f(tile, h, i0) for this thread's share of the tiles of x [d, n, n_head_kv], and each of the n_head query heads that share
// a tile; i0 is the tile's first entry
template <typename F>
static void capkv_each_tile(const ggml_tensor * x, int64_t n_head, int ith, int nth, F && f) {
    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];
    const int64_t r = n_head/x->ne[2];

    std::vector<float> tile(CAPKV_BLOCK*d);

    const int64_t n_blocks = (n + CAPKV_BLOCK - 1)/CAPKV_BLOCK;
    const int64_t n_work   = x->ne[2]*n_blocks;

    for (int64_t iw = n_work*ith/nth; iw < n_work*(ith + 1)/nth; ++iw) {
        const int64_t hk = iw/n_blocks;
        const int64_t i0 = iw%n_blocks*CAPKV_BLOCK;

        capkv_load_tile(capkv_head(x, hk), d, n, i0, tile.data());

        for (int64_t h = hk*r; h < (hk + 1)*r; ++h) {
            f(tile.data(), h, i0);
        }
    }
}

static void capkv_mean_softmax_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * k = dst->src[0];
    const ggml_tensor * q = dst->src[1];

    const int64_t d = k->ne[0];
    const int64_t n = k->ne[1];
    const int64_t m = q->ne[1];
    const int64_t r = q->ne[2]/k->ne[2];

    float scale;
    memcpy(&scale, dst->src[2]->data, sizeof(scale));

    const auto * n_vis = (const float *) dst->src[3]->data; // [m, n_head_kv]

    const int64_t n_pad = (n + CAPKV_BLOCK - 1)/CAPKV_BLOCK*CAPKV_BLOCK;

    std::vector<float> kt(n_pad*d);              // the tiles of one KV head
    std::vector<float> logits(CAPKV_COLS*n_pad); // [n_pad, CAPKV_COLS]
    std::vector<float> buf;

    int64_t hk_loaded = -1;

    // each thread takes neighbouring heads, so that it loads the tiles of a KV head once
    const int64_t n_head = q->ne[2];
    for (int64_t h = n_head*ith/nth; h < n_head*(ith + 1)/nth; ++h) {
        if (h/r != hk_loaded) {
            hk_loaded = h/r;
            for (int64_t i = 0; i < n; i += CAPKV_BLOCK) {
                capkv_load_tile(capkv_head(k, hk_loaded), d, n, i, kt.data() + i*d);
            }
        }

        float * w = capkv_head(dst, h);
        std::fill(w, w + n, 0.0f);

        for (int64_t j0 = 0; j0 < m; j0 += CAPKV_COLS) {
            const float * y = capkv_load_cols(capkv_head(q, h), d, m, j0, buf);

            for (int64_t i = 0; i < n; i += CAPKV_BLOCK) {
                capkv_vec acc[CAPKV_COLS][CAPKV_TILE];
                capkv_dot_tile(kt.data() + i*d, y, d, d, acc);
                for (int64_t j = 0; j < CAPKV_COLS; ++j) {
                    capkv_store_tile(logits.data() + j*n_pad + i, acc[j]);
                }
            }
            for (int64_t j = 0; j < std::min(CAPKV_COLS, m - j0); ++j) {
                const int64_t n_see = (int64_t) n_vis[h/r*m + j0 + j];
                capkv_add_softmax(logits.data() + j*n_pad, w, n_see, GGML_PAD(n_see, CAPKV_SOFTMAX), scale, 1.0f/m);
            }
        }
    }
}

static void capkv_mean_var_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * k = dst->src[0];
    const ggml_tensor * q = dst->src[1];

    const int64_t d = k->ne[0];
    const int64_t n = k->ne[1];
    const int64_t m = q->ne[1];

    float args[2]; // scale of the logits, weight of the variance
    memcpy(args, dst->src[2]->data, sizeof(args));

    std::vector<float> buf;

    capkv_each_tile(k, q->ne[2], ith, nth, [&](const float * tile, int64_t h, int64_t i0) {
        // sum the differences to the first query's logits, so that the variance is no small difference of large sums
        capkv_vec first[CAPKV_TILE] = {};
        capkv_vec sum  [CAPKV_TILE] = {};
        capkv_vec sqr  [CAPKV_TILE] = {};

        for (int64_t j0 = 0; j0 < m; j0 += CAPKV_COLS) {
            const float * y = capkv_load_cols(capkv_head(q, h), d, m, j0, buf);

            capkv_vec acc[CAPKV_COLS][CAPKV_TILE];
            capkv_dot_tile(tile, y, d, d, acc);

            for (int64_t j = 0; j < std::min(CAPKV_COLS, m - j0); ++j) {
                for (int64_t t = 0; t < CAPKV_TILE; ++t) {
                    if (j0 + j == 0) {
                        first[t] = acc[0][t];
                    }
                    capkv_vec x = acc[j][t];
                    x += first[t]*-1.0f;

                    sum[t] += x;
                    sqr[t] += x*x;
                }
            }
        }

        float f [CAPKV_BLOCK];
        float s [CAPKV_BLOCK];
        float s2[CAPKV_BLOCK];
        capkv_store_tile(f,  first);
        capkv_store_tile(s,  sum);
        capkv_store_tile(s2, sqr);

        float * out = capkv_head(dst, h) + i0;
        for (int64_t l = 0; l < std::min(CAPKV_BLOCK, n - i0); ++l) {
            const float mean = s[l]/m;
            const float var  = std::max(0.0f, s2[l]/m - mean*mean);
            out[l] = args[0]*(f[l] + mean) + args[1]*args[0]*args[0]*var;
        }
    });
}

static void capkv_sqnorm_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * x     = dst->src[0];
    const ggml_tensor * l_inv = dst->src[1];

    const int64_t d = x->ne[0];
    const int64_t n = x->ne[1];

    std::vector<float> buf;

    capkv_each_tile(x, l_inv->ne[2], ith, nth, [&](const float * tile, int64_t h, int64_t i0) {
        capkv_vec sum[CAPKV_TILE] = {};

        for (int64_t j0 = 0; j0 < d; j0 += CAPKV_COLS) {
            const float * y = capkv_load_cols(capkv_head(l_inv, h), d, d, j0, buf);

            // a row of a lower triangular matrix ends at its diagonal
            capkv_vec acc[CAPKV_COLS][CAPKV_TILE];
            capkv_dot_tile(tile, y, d, std::min(j0 + CAPKV_COLS, d), acc);

            for (int64_t j = 0; j < CAPKV_COLS; ++j) {
                for (int64_t t = 0; t < CAPKV_TILE; ++t) {
                    sum[t] += acc[j][t]*acc[j][t];
                }
            }
        }

        float out[CAPKV_BLOCK];
        capkv_store_tile(out, sum);
        std::copy_n(out, std::min(CAPKV_BLOCK, n - i0), capkv_head(dst, h) + i0);
    });
}

// out += rows [a0, a0 + CAPKV_COLS), columns [b0, b0 + CAPKV_BLOCK) of the sum over entries [i0, i1); v: [d_pad, n]
static inline void capkv_gram_tile(
        const float * v, const float * w, int64_t d_pad, int64_t i0, int64_t i1, int64_t a0, int64_t b0, float out[CAPKV_COLS][CAPKV_BLOCK]) {
    capkv_vec sum[CAPKV_COLS][CAPKV_TILE] = {};

    for (int64_t i = i0; i < i1; ++i) {
        capkv_vec x[CAPKV_TILE];
        for (int64_t t = 0; t < CAPKV_TILE; ++t) {
            x[t] = capkv_load(v + i*d_pad + b0 + t*CAPKV_LANES)*w[i];
        }
        for (int64_t j = 0; j < CAPKV_COLS; ++j) {
            for (int64_t t = 0; t < CAPKV_TILE; ++t) {
                sum[j][t] += x[t]*v[i*d_pad + a0 + j];
            }
        }
    }

    for (int64_t j = 0; j < CAPKV_COLS; ++j) {
        for (int64_t t = 0; t < CAPKV_TILE; ++t) {
            capkv_store(out[j] + t*CAPKV_LANES, capkv_load(out[j] + t*CAPKV_LANES) + sum[j][t]);
        }
    }
}

static void capkv_gram_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * v = dst->src[0];
    const ggml_tensor * w = dst->src[1];

    const int64_t d      = v->ne[0];
    const int64_t n      = v->ne[1];
    const int64_t n_head = w->ne[2];
    const int64_t r      = n_head/v->ne[2];
    const int64_t first  = (int64_t) (intptr_t) userdata;
    const int64_t d_pad  = (d + CAPKV_BLOCK - 1)/CAPKV_BLOCK*CAPKV_BLOCK;

    // a sum of partial sums over this many entries rounds less than one long sum
    const int64_t n_part = 128;

    std::vector<float> padded;
    int64_t hk_loaded = -1;

    const int64_t n_rows = (d + CAPKV_COLS - 1)/CAPKV_COLS;
    const int64_t n_work = n_head*n_rows;

    for (int64_t iw = n_work*ith/nth; iw < n_work*(ith + 1)/nth; ++iw) {
        const int64_t h  = iw/n_rows;
        const int64_t a0 = iw%n_rows*CAPKV_COLS;

        const float * vh = capkv_head(v, h/r);
        if (d != d_pad) {
            if (hk_loaded != h/r) {
                hk_loaded = h/r;
                padded.assign(n*d_pad, 0.0f);
                for (int64_t i = 0; i < n; ++i) {
                    std::copy(vh + i*d, vh + (i + 1)*d, padded.begin() + i*d_pad);
                }
            }
            vh = padded.data();
        }

        float * out = capkv_head(dst, h);

        // the sum is symmetric: compute the blocks from the diagonal on and mirror them
        for (int64_t b0 = a0/CAPKV_BLOCK*CAPKV_BLOCK; b0 < d; b0 += CAPKV_BLOCK) {
            float sum[CAPKV_COLS][CAPKV_BLOCK] = {};
            for (int64_t i = first; i < n; i += n_part) {
                capkv_gram_tile(vh, capkv_head(w, h), d_pad, i, std::min(i + n_part, n), a0, b0, sum);
            }
            for (int64_t a = a0; a < std::min(a0 + CAPKV_COLS, d); ++a) {
                for (int64_t b = std::max(a, b0); b < std::min(b0 + CAPKV_BLOCK, d); ++b) {
                    out[a*d + b] = out[b*d + a] = sum[a - a0][b - b0];
                }
            }
        }
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

extern const capkv_kernels capkv_kernels_cpu = {
    /*.mean_softmax =*/ capkv_mean_softmax_cpu,
    /*.mean_var     =*/ capkv_mean_var_cpu,
    /*.gram         =*/ capkv_gram_cpu,
    /*.sqnorm       =*/ capkv_sqnorm_cpu,
};
