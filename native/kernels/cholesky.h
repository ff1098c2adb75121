#pragma once

#include "policies/policy.h"

// custom ops on the CPU, in double inside: of a cache elsewhere only d x d matrices and what becomes of them travel
//
//   m:     F32 [d, d, n_head], symmetric
//   ridge: F32 [2, n_head] or [2, 1] for all heads, a capkv_ridge each: what is added to the diagonal

// rows of L^-1, with L L^T = M + ridge: |L^-1 v|^2 = v^T (M + ridge)^-1 v
//   result: F32 [d, d, n_head], lower triangular, ne1 counts the rows of L^-1
ggml_tensor * capkv_build_cholesky_inv(ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge);

// 1/2 log det(I + M/r) in nats, and r, what the ridge came to: F32 [2, 1, n_head]
ggml_tensor * capkv_build_capacity(ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge);

// s [n, 1, n_head], the leverage of capkv_build_leverage() computed from m, where f32 was enough for that, and computed anew in
// double from x [d, n, n_head_kv] and w [n, 1, n_head] where the sum dwarfs the ridge; of a cache in host memory
ggml_tensor * capkv_build_refine(
        ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge, ggml_tensor * s, ggml_tensor * x, ggml_tensor * w, float eps, int64_t i0);
