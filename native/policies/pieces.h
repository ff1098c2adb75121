#pragma once

#include "policy.h"

//
// pieces of graphs that policies share
//

// sum over dim 1: [n, m, n_head] -> [n, 1, n_head]
ggml_tensor * capkv_build_sum1(ggml_context * ctx, ggml_tensor * x);

// mean over the query heads of a group: [n, 1, n_head] -> [n, n_head_kv]
ggml_tensor * capkv_build_group_mean(const capkv_score_ctx & sc, ggml_tensor * x);

// the same weight for every entry: [n, 1, n_head]; what a policy takes that has not seen a query yet
ggml_tensor * capkv_build_uniform(const capkv_score_ctx & sc);

// mean over the queries, asked at pos, of the attention weights softmax_i(q_j . k_i kq_scale): [n, 1, n_head]
//   causal: a query sees the entries up to its own position (one that sees none any more: the first), else all of them
ggml_tensor * capkv_build_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos, bool causal);

// attention that queries distributed like those at pos can be expected to pay: softmax_i(mean_j a_ij + spread var_j a_ij) of the
// logits a_ij = q_j . k_i kq_scale (spread 1/2: E exp(a) of a normal a), no weight below 1e-20: [n, 1, n_head]
ggml_tensor * capkv_build_expected_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos, float spread);

// mean of the RoPE rotations at the next n_future positions, as cached keys are stored: [d_k, d_k], columns are rotated unit
// vectors; NULL if there is none
ggml_tensor * capkv_build_mean_rotation(const capkv_score_ctx & sc, int64_t n_future);

// cosine of each key to the mean of the normalised keys: [n, n_head_kv]
ggml_tensor * capkv_build_key_cos(const capkv_score_ctx & sc);

// sum_i w_i x_i x_i^T over the entries from i0 on: x [d, n, n_head_kv], w [n, 1, n_head] -> [d, d, n_head]
ggml_tensor * capkv_build_gram(ggml_context * ctx, bool on_host, ggml_tensor * x, ggml_tensor * w, int64_t i0);

// for all heads: [2, 1]
ggml_tensor * capkv_build_ridge(const capkv_score_ctx & sc, const capkv_ridge & ridge);

// leverage w_i x_i^T A^-1 x_i, A = ridge + sum_i (w_i + eps) x_i x_i^T over the entries from i0 on
//   x [d, n, n_head_kv], weights.w [n, 1, n_head] (not NULL), ridge [2, n_head] or [2, 1] as in kernels/cholesky.h (weights.ridge
//   is not looked at); result [n, 1, n_head]
ggml_tensor * capkv_build_leverage(const capkv_score_ctx & sc, ggml_tensor * x, const capkv_weights & weights, ggml_tensor * ridge);
