#pragma once

// a tile holds some entries as vectors of the CPU; the kernels of cpu.cpp multiply tiles with columns (queries, rows of L^-1)

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// A vector is a register. The sums of a tile and its columns have to stay in registers: a sum that does not fit is written to
// memory at every step, which makes the kernels about fifty times slower.
#if defined(__AVX512F__)
static constexpr int64_t CAPKV_LANES  = 16; // entries side by side in a vector
static constexpr int64_t CAPKV_TILE   = 2;  // vectors of entries in a tile
static constexpr int64_t CAPKV_COLS   = 8;  // columns that a tile is multiplied with at once
static constexpr int64_t CAPKV_N_REGS = 32;
#elif defined(__AVX2__)
static constexpr int64_t CAPKV_LANES  = 8;
static constexpr int64_t CAPKV_TILE   = 2;
static constexpr int64_t CAPKV_COLS   = 4;
static constexpr int64_t CAPKV_N_REGS = 16;
#else // NEON
static constexpr int64_t CAPKV_LANES  = 4;
static constexpr int64_t CAPKV_TILE   = 4;
static constexpr int64_t CAPKV_COLS   = 4;
static constexpr int64_t CAPKV_N_REGS = 32;
#endif
static constexpr int64_t CAPKV_BLOCK = CAPKV_LANES*CAPKV_TILE;

// the sums, a vector of each row of the tile, and an element of a column
static_assert(CAPKV_TILE*CAPKV_COLS + CAPKV_TILE + 1 <= CAPKV_N_REGS, "the sums of a tile have to stay in registers");

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

// entries [i0, i0 + CAPKV_BLOCK) of x [d, n], transposed: [CAPKV_BLOCK, d]; zeros after the last entry
static inline void capkv_load_tile(const float * x, int64_t d, int64_t n, int64_t i0, float * tile) {
    const int64_t nb = std::min(CAPKV_BLOCK, n - i0);

    for (int64_t l = 0; l < CAPKV_BLOCK; ++l) {
        for (int64_t k = 0; k < d; ++k) {
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
static inline const float * capkv_load_cols(const float * y, int64_t d, int64_t m, int64_t j0, std::vector<float> & buf) {
    if (j0 + CAPKV_COLS <= m) {
        return y + j0*d;
    }

    buf.assign(CAPKV_COLS*d, 0.0f);
    std::copy(y + j0*d, y + m*d, buf.begin());

    return buf.data();
}
