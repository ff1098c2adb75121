#pragma once

#include <cstddef>
#include <cstdint>

// a sum of partial sums over this many entries rounds less than one long sum
static constexpr int64_t CAPKV_CPU_PART = 128;

static constexpr int64_t CAPKV_CPU_Q8_0 = 32; // values in a block of ggml's type q8_0, after their scale in F16

// The inner loops of the kernels, compiled for one set of vector instructions. All data is in host memory.
//
//   x: the entries of a KV head [d, n]; q: the queries of a query head [d, m]
//   tile: n_block entries, their elements side by side: [n_block, d]
//   buf: room for n_cols*d values
struct capkv_cpu_target {
    const char * name;

    bool (*is_there)(void); // whether this processor has the instructions

    bool fused; // the kernels are faster than graphs of ggml's operators

    int64_t n_block; // entries in a tile
    int64_t n_cols;  // vectors that a tile is multiplied with at once

    // entries [i0, i0 + n_block) of x as a tile; zeros after the last entry
    void (*load_tile)(const float * x, int64_t d, int64_t n, int64_t i0, float * tile);

    // mean over the queries of softmax_i(q_j . x_i scale), query j over the first n_vis[j] entries: w [n]
    //   tiles: of all entries; logits: room for n_cols rows of n values, each row padded to whole tiles
    void (*mean_softmax)(const float * tiles, const float * q, const float * n_vis, int64_t d, int64_t n, int64_t m, float scale,
                         float * logits, float * buf, float * w);

    // mean + spread*variance, over the queries, of the logits q_j . x_i scale: out [n_block]
    void (*mean_var)(const float * tile, const float * q, int64_t d, int64_t m, float scale, float spread, float * buf, float * out);

    // |L^-1 x_i|^2 for a lower triangular matrix l_inv [d, d]: out [n_block]
    void (*sqnorm)(const float * tile, const float * l_inv, int64_t d, float * buf, float * out);

    // sum_i w_i x_i x_i^T, its rows [a0, a1) from the diagonal on: added to sum [d_pad, a1 - a0]
    //   x: n entries, ld values from one to the next, at least d rounded up to n_cols; a0 is a multiple of n_cols
    //   d_pad: d rounded up to n_block; sum has room for a1 - a0 rounded up to n_cols; buf: room for n*n_block values
    void (*gram)(const float * x, int64_t ld, const float * w, int64_t d, int64_t n, int64_t a0, int64_t a1, float * buf, float * sum);

    // sum of the entries, each divided by its norm: out [d]
    //   buf: room for d values
    void (*unit_sum)(const float * x, int64_t d, int64_t n, float * buf, float * out);

    // product of y [d] with each entry, divided by the entry's norm: out [n]
    void (*unit_dot)(const float * x, const float * y, int64_t d, int64_t n, float * out);

    // y [n], of n values in type q8_0
    void (*dequantize_q8_0)(const void * x, int64_t n, float * y);

    //
    // in double
    //

    // the factor u of m + r I = u^T u, in place: u is m [d, d] before, of which the upper triangle alone is read and written
    //   inv_diag: [d] 1/u_kk
    void (*factorize)(int64_t d, double r, double * u, double * inv_diag);

    // y = u^-T y
    void (*solve)(int64_t d, const double * u, const double * inv_diag, double * y);

    // u^-T, lower triangular: out [d, d]
    //   buf: room for n_block*d values
    void (*invert)(int64_t d, const double * u, const double * inv_diag, double * buf, float * out);

    // sum_i (w_i + eps) x_i x_i^T, its upper triangle: added to m [d, d]
    void (*gram_f64)(const float * x, const float * w, int64_t d, int64_t n, double eps, double * m);
};

// the i-th target that this processor has, the best one first; NULL after the last
const capkv_cpu_target * capkv_cpu_target_at(size_t i);

// the one whose kernels run: the best, if no test has chosen another
const capkv_cpu_target & capkv_cpu_target_current();

// let another one run, NULL: the best; for tests, while no graph is computed
void capkv_cpu_target_set(const capkv_cpu_target * target);
