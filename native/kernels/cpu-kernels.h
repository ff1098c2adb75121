// The kernels, once for each target: cpu-targets.cpp includes this after
//
//   #define CAPKV_TARGET(F) F(name, has, instructions, lanes, tile, cols, regs)
//
// A vector is a register. The sums of a tile and its columns have to stay in registers: a sum that does not fit is written to
// memory at every step, which makes the kernels about fifty times slower.

#define CAPKV_TARGET_NAME(name, has, instructions, lanes, tile, cols, regs) capkv_cpu_##name
namespace CAPKV_TARGET(CAPKV_TARGET_NAME) {

#define CAPKV_TARGET_SIZES(name, has, instructions, lanes, tile, cols, regs)                               \
    constexpr int64_t CAPKV_LANES = lanes;      /* values in a vector */                                   \
    constexpr int64_t CAPKV_TILE  = tile;       /* vectors of entries in a tile */                         \
    constexpr int64_t CAPKV_COLS  = cols;       /* columns that a tile is multiplied with at once */       \
    constexpr int64_t CAPKV_BLOCK = lanes*tile; /* entries in a tile */                                    \
    /* the sums, a vector of each row of the tile, and an element of a column */                           \
    static_assert(!regs || tile*cols + tile + 1 <= regs, "the sums of a tile have to stay in registers");  \
    static bool capkv_is_there(void) { return has; }
CAPKV_TARGET(CAPKV_TARGET_SIZES)

#define CAPKV_PRAGMA(x) _Pragma(#x)
#if !defined(__x86_64__) || !defined(__GNUC__)
#define CAPKV_TARGET_BEGIN(name, has, instructions, lanes, tile, cols, regs)
#define CAPKV_TARGET_END
#elif defined(__clang__)
#define CAPKV_TARGET_BEGIN(name, has, instructions, lanes, tile, cols, regs) \
    CAPKV_PRAGMA(clang attribute push(__attribute__((target(instructions))), apply_to = function))
#define CAPKV_TARGET_END CAPKV_PRAGMA(clang attribute pop)
#else
#define CAPKV_TARGET_BEGIN(name, has, instructions, lanes, tile, cols, regs) \
    CAPKV_PRAGMA(GCC push_options) CAPKV_PRAGMA(GCC target(instructions))
#define CAPKV_TARGET_END CAPKV_PRAGMA(GCC pop_options)
#endif
CAPKV_TARGET(CAPKV_TARGET_BEGIN)

#if defined(__GNUC__)
typedef float capkv_vec __attribute__ ((vector_size (CAPKV_LANES*sizeof(float))));

// the same without alignment; memcpy() may be compiled into several smaller stores, which the next load has to wait for
typedef float capkv_vec_mem __attribute__ ((vector_size (CAPKV_LANES*sizeof(float)), aligned(sizeof(float)), may_alias));

static inline capkv_vec capkv_load(const float * p) { return *(const capkv_vec_mem *) p; }
static inline void capkv_store(float * p, const capkv_vec & x) { *(capkv_vec_mem *) p = x; }
#else
struct capkv_vec {
    float v[CAPKV_LANES];

    capkv_vec & operator+=(const capkv_vec & o) { for (int l = 0; l < CAPKV_LANES; ++l) { v[l] += o.v[l]; } return *this; }
};
static inline capkv_vec capkv_load(const float * p) { capkv_vec r; memcpy(r.v, p, sizeof(r.v)); return r; }
static inline void capkv_store(float * p, const capkv_vec & x) { memcpy(p, x.v, sizeof(x.v)); }
static inline capkv_vec operator+(capkv_vec a, const capkv_vec & b) { a += b; return a; }
static inline capkv_vec operator*(const capkv_vec & a, float s) { capkv_vec r; for (int l = 0; l < CAPKV_LANES; ++l) { r.v[l] = a.v[l]*s; } return r; }
static inline capkv_vec operator*(const capkv_vec & a, const capkv_vec & b) { capkv_vec r; for (int l = 0; l < CAPKV_LANES; ++l) { r.v[l] = a.v[l]*b.v[l]; } return r; }
#endif

static inline int64_t capkv_min(int64_t a, int64_t b) { return a < b ? a : b; }

static void capkv_load_tile(const float * x, int64_t d, int64_t n, int64_t i0, float * tile) {
    const int64_t nb = capkv_min(CAPKV_BLOCK, n - i0);

    int64_t k0 = 0; // the elements before it are done

#if defined(__GNUC__)
    // four elements of four entries at a time
    typedef float vec4     __attribute__ ((vector_size (4*sizeof(float))));
    typedef float vec4_mem __attribute__ ((vector_size (4*sizeof(float)), aligned(sizeof(float)), may_alias));

    for (; nb == CAPKV_BLOCK && k0 + 4 <= d; k0 += 4) {
        for (int64_t l = 0; l < CAPKV_BLOCK; l += 4) {
            const float * p = x + (i0 + l)*d + k0;

            const vec4 a = *(const vec4_mem *) p;
            const vec4 b = *(const vec4_mem *) (p + d);
            const vec4 c = *(const vec4_mem *) (p + 2*d);
            const vec4 e = *(const vec4_mem *) (p + 3*d);

            for (int64_t k = 0; k < 4; ++k) {
                *(vec4_mem *) (tile + (k0 + k)*CAPKV_BLOCK + l) = vec4 { a[k], b[k], c[k], e[k] };
            }
        }
    }
#endif

    for (int64_t l = 0; l < CAPKV_BLOCK; ++l) {
        for (int64_t k = k0; k < d; ++k) {
            tile[k*CAPKV_BLOCK + l] = l < nb ? x[(i0 + l)*d + k] : 0.0f;
        }
    }
}

// products of a tile with CAPKV_COLS columns y [d, CAPKV_COLS], over the first nd dimensions
static inline void capkv_dot_tile(const float * tile, const float * y, int64_t d, int64_t nd, capkv_vec acc[CAPKV_COLS][CAPKV_TILE]) {
    capkv_vec sum[CAPKV_COLS][CAPKV_TILE] = {};

    for (int64_t k = 0; k < nd; ++k) {
        capkv_vec x[CAPKV_TILE];
        for (int64_t t = 0; t < CAPKV_TILE; ++t) {
            x[t] = capkv_load(tile + k*CAPKV_BLOCK + t*CAPKV_LANES);
        }

        for (int64_t j = 0; j < CAPKV_COLS; ++j) {
            for (int64_t t = 0; t < CAPKV_TILE; ++t) {
                sum[j][t] += x[t]*y[j*d + k];
            }
        }
    }

    for (int64_t j = 0; j < CAPKV_COLS; ++j) {
        for (int64_t t = 0; t < CAPKV_TILE; ++t) {
            acc[j][t] = sum[j][t];
        }
    }
}

// the entries of a tile side by side: [CAPKV_BLOCK]
static inline void capkv_store_tile(float * p, const capkv_vec x[CAPKV_TILE]) {
    for (int64_t t = 0; t < CAPKV_TILE; ++t) {
        capkv_store(p + t*CAPKV_LANES, x[t]);
    }
}

// CAPKV_COLS columns of y [d, m] from j0 on; zeros after the last column
static inline const float * capkv_load_cols(const float * y, int64_t d, int64_t m, int64_t j0, float * buf) {
    if (j0 + CAPKV_COLS <= m) {
        return y + j0*d;
    }

    const int64_t n = (m - j0)*d;
    for (int64_t i = 0; i < CAPKV_COLS*d; ++i) {
        buf[i] = i < n ? y[j0*d + i] : 0.0f;
    }

    return buf;
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
constexpr int64_t CAPKV_SOFTMAX = CAPKV_BLOCK < 16 ? CAPKV_BLOCK : 16;
static_assert(CAPKV_BLOCK % CAPKV_SOFTMAX == 0, "rows of logits are padded to whole tiles");

// w += softmax(x scale)*weight, both [n]; x is overwritten and has room for n rounded up to CAPKV_SOFTMAX
static void capkv_add_softmax(float * x, float * w, int64_t n, float scale, float weight) {
    const int64_t n_pad = (n + CAPKV_SOFTMAX - 1)/CAPKV_SOFTMAX*CAPKV_SOFTMAX;

    for (int64_t i = n; i < n_pad; ++i) {
        x[i] = -INFINITY;
    }

    float lane[CAPKV_SOFTMAX];
    for (int64_t l = 0; l < CAPKV_SOFTMAX; ++l) {
        lane[l] = -INFINITY;
    }
    for (int64_t i = 0; i < n_pad; i += CAPKV_SOFTMAX) {
        for (int64_t l = 0; l < CAPKV_SOFTMAX; ++l) {
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
        }
    }
    float max = lane[0];
    for (int64_t l = 1; l < CAPKV_SOFTMAX; ++l) {
        max = lane[l] > max ? lane[l] : max;
    }

    for (int64_t l = 0; l < CAPKV_SOFTMAX; ++l) {
        lane[l] = 0.0f;
    }
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

static void capkv_mean_softmax(
        const float * tiles, const float * q, const float * n_vis, int64_t d, int64_t n, int64_t m, float scale, float * logits, float * buf, float * w) {
    const int64_t n_pad = (n + CAPKV_BLOCK - 1)/CAPKV_BLOCK*CAPKV_BLOCK;

    for (int64_t i = 0; i < n; ++i) {
        w[i] = 0.0f;
    }

    for (int64_t j0 = 0; j0 < m; j0 += CAPKV_COLS) {
        const float * y = capkv_load_cols(q, d, m, j0, buf);

        for (int64_t i = 0; i < n; i += CAPKV_BLOCK) {
            capkv_vec acc[CAPKV_COLS][CAPKV_TILE];
            capkv_dot_tile(tiles + i*d, y, d, d, acc);
            for (int64_t j = 0; j < CAPKV_COLS; ++j) {
                capkv_store_tile(logits + j*n_pad + i, acc[j]);
            }
        }
        for (int64_t j = 0; j < capkv_min(CAPKV_COLS, m - j0); ++j) {
            capkv_add_softmax(logits + j*n_pad, w, (int64_t) n_vis[j0 + j], scale, 1.0f/m);
        }
    }
}

static void capkv_mean_var(const float * tile, const float * q, int64_t d, int64_t m, float scale, float spread, float * buf, float * out) {
    // sum the differences to the first query's logits, so that the variance is no small difference of large sums
    capkv_vec first[CAPKV_TILE] = {};
    capkv_vec sum  [CAPKV_TILE] = {};
    capkv_vec sqr  [CAPKV_TILE] = {};

    for (int64_t j0 = 0; j0 < m; j0 += CAPKV_COLS) {
        const float * y = capkv_load_cols(q, d, m, j0, buf);

        capkv_vec acc[CAPKV_COLS][CAPKV_TILE];
        capkv_dot_tile(tile, y, d, d, acc);

        for (int64_t j = 0; j < capkv_min(CAPKV_COLS, m - j0); ++j) {
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

    for (int64_t l = 0; l < CAPKV_BLOCK; ++l) {
        const float mean = s[l]/m;
        const float var  = s2[l]/m - mean*mean;
        out[l] = scale*(f[l] + mean) + spread*scale*scale*(var > 0.0f ? var : 0.0f);
    }
}

static void capkv_sqnorm(const float * tile, const float * l_inv, int64_t d, float * buf, float * out) {
    capkv_vec sum[CAPKV_TILE] = {};

    for (int64_t j0 = 0; j0 < d; j0 += CAPKV_COLS) {
        const float * y = capkv_load_cols(l_inv, d, d, j0, buf);

        // a row of a lower triangular matrix ends at its diagonal
        capkv_vec acc[CAPKV_COLS][CAPKV_TILE];
        capkv_dot_tile(tile, y, d, capkv_min(j0 + CAPKV_COLS, d), acc);

        for (int64_t j = 0; j < CAPKV_COLS; ++j) {
            for (int64_t t = 0; t < CAPKV_TILE; ++t) {
                sum[t] += acc[j][t]*acc[j][t];
            }
        }
    }

    capkv_store_tile(out, sum);
}

// sum [ld_sum, CAPKV_COLS] += CAPKV_COLS rows and CAPKV_BLOCK columns of the sum over n entries
//   x: the elements of the rows, ld values from one entry to the next; xw: those of the columns times the weights [CAPKV_BLOCK, n]
static inline void capkv_gram_tile(const float * x, int64_t ld, const float * xw, int64_t n, float * sum, int64_t ld_sum) {
    capkv_vec acc[CAPKV_COLS][CAPKV_TILE] = {};

    for (int64_t i = 0; i < n; ++i) {
        capkv_vec y[CAPKV_TILE];
        for (int64_t t = 0; t < CAPKV_TILE; ++t) {
            y[t] = capkv_load(xw + i*CAPKV_BLOCK + t*CAPKV_LANES);
        }
        for (int64_t j = 0; j < CAPKV_COLS; ++j) {
            for (int64_t t = 0; t < CAPKV_TILE; ++t) {
                acc[j][t] += y[t]*x[i*ld + j];
            }
        }
    }

    for (int64_t j = 0; j < CAPKV_COLS; ++j) {
        for (int64_t t = 0; t < CAPKV_TILE; ++t) {
            float * p = sum + j*ld_sum + t*CAPKV_LANES;
            capkv_store(p, capkv_load(p) + acc[j][t]);
        }
    }
}

static void capkv_gram(const float * x, int64_t ld, const float * w, int64_t d, int64_t n, int64_t a0, int64_t a1, float * buf, float * sum) {
    const int64_t d_pad = (d + CAPKV_BLOCK - 1)/CAPKV_BLOCK*CAPKV_BLOCK;

    // a block of columns is copied once, to L1, for all its rows
    for (int64_t b0 = a0/CAPKV_BLOCK*CAPKV_BLOCK; b0 < d; b0 += CAPKV_BLOCK) {
        const int64_t nb = capkv_min(CAPKV_BLOCK, d - b0);
        for (int64_t i = 0; i < n; ++i) {
            if (nb == CAPKV_BLOCK) {
                for (int64_t t = 0; t < CAPKV_BLOCK; t += CAPKV_LANES) {
                    capkv_store(buf + i*CAPKV_BLOCK + t, capkv_load(x + i*ld + b0 + t)*w[i]);
                }
            } else {
                for (int64_t b = 0; b < CAPKV_BLOCK; ++b) {
                    buf[i*CAPKV_BLOCK + b] = b < nb ? x[i*ld + b0 + b]*w[i] : 0.0f;
                }
            }
        }
        for (int64_t a = a0; a < capkv_min(a1, b0 + CAPKV_BLOCK); a += CAPKV_COLS) {
            capkv_gram_tile(x + a, ld, buf, n, sum + (a - a0)*d_pad + b0, d_pad);
        }
    }
}

#include "cpu-kernels-rows.h"
#include "cpu-kernels-f64.h"

CAPKV_TARGET_END

#define CAPKV_TARGET_RECORD(name, has, instructions, lanes, tile, cols, regs) \
    const capkv_cpu_target target = {                                         \
        #name, capkv_is_there, /*.fused =*/ regs > 0, lanes*tile, cols,       \
        capkv_load_tile, capkv_mean_softmax, capkv_mean_var, capkv_sqnorm,    \
        capkv_gram, capkv_unit_sum, capkv_unit_dot, capkv_dequantize_q8_0,    \
        capkv_factorize, capkv_solve, capkv_invert, capkv_gram_f64,           \
    };
CAPKV_TARGET(CAPKV_TARGET_RECORD)

}

#undef CAPKV_TARGET
