#pragma once

#include "ggml.h"

// Cholesky factors. These are custom ops on the CPU that compute in double. Where a cache is elsewhere, only matrices of
// [d, d] and what becomes of them move between the devices.
//
//   m:     F32 [d, d, n_head], symmetric
//   ridge: F32 [2, n_head], or [2, 1] for all heads: one capkv_ridge each

// what is added to the diagonal of m, so that it has a factor: abs + rel tr(m)/d
struct capkv_ridge {
    float abs;
    float rel;
};

// L^-1, where L L^T = m + ridge, so that |L^-1 x|^2 = x^T (m + ridge)^-1 x
//   result: F32 [d, d, n_head], lower triangular, ne1 counts the rows of L^-1
ggml_tensor * capkv_build_cholesky_inv(ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge);

// s, the leverage that capkv_build_leverage() computed from m in f32, and instead of it, for heads whose m is so large next to
// the ridge that f32 was not enough, the same computed in double; all tensors are in host memory
//   s, w: F32 [n, 1, n_head], x: F32 [d, n, n_head_kv]; result: F32 [n, 1, n_head]
ggml_tensor * capkv_build_refine(
        ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge, ggml_tensor * s, ggml_tensor * x, ggml_tensor * w, float eps, int64_t i0);

// the value of a ridge for one matrix m [d, d]
template <typename T>
double capkv_ridge_of(int64_t d, const T * m, const capkv_ridge & ridge);

// capacity 1/2 log det(I + m/r) in nats
double capkv_capacity_of(int64_t d, const float * m, double r);
