#pragma once

#include "policy.h"

#include "kernels/kernels.h"

//
// parts of graphs that policies share; capkv_build_sum1() and capkv_build_dot() are in kernels/kernels.h
//

// A long cache is gone through tile by tile: as each tile is done with before the next begins, they all take the same memory.

// f of each tile, [n of the tile, ...], side by side: [n, ...]
ggml_tensor * capkv_build_tiles(const capkv_score_ctx & sc, const capkv_entries & f);

// the sum of f of each tile, from the entry i0 on
ggml_tensor * capkv_build_tile_sum(const capkv_score_ctx & sc, const capkv_entries & f, int64_t i0 = 0);

// those of x from i0 on, n of them along a dimension, 0 or 1: x itself if that is all
ggml_tensor * capkv_build_part(ggml_context * ctx, ggml_tensor * x, int dim, int64_t i0, int64_t n);

// sum_i w_i x_i x_i^T over the entries from i0 on; w [n, 1, n_head]: [d, d, n_head]
ggml_tensor * capkv_build_gram(const capkv_score_ctx & sc, const capkv_entries & x, ggml_tensor * w, int64_t i0);

// mean over the query heads of a group: [n, 1, n_head] -> [n, n_head_kv]
ggml_tensor * capkv_build_group_mean(const capkv_score_ctx & sc, ggml_tensor * x);

// the weight 1/n for every entry: [n, 1, n_head]; what a policy takes that has not seen a query yet
ggml_tensor * capkv_build_uniform(const capkv_score_ctx & sc);

// mean over the queries q of their attention weights softmax_i(q_j . k_i kq_scale): [n, 1, n_head]
//   a query asked at pos[j] sees the entries up to that position; if all of those were evicted, it sees the first entry
ggml_tensor * capkv_build_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos);

// the attention expected of queries that are distributed like q, asked at pos: softmax_i(mean_j a_ij + spread var_j a_ij) of the
// logits a_ij = q_j . k_i kq_scale, no weight below 1e-20: [n, 1, n_head]
//   spread 1/2 is that of normally distributed logits, of which E exp(a) = exp(mean + var/2)
ggml_tensor * capkv_build_expected_attention(const capkv_score_ctx & sc, ggml_tensor * q, const std::vector<int32_t> & pos, float spread);

// mean of the RoPE rotations at the next n_future positions, in the form that cached keys are stored in: [d_k, d_k], column i is
// the rotated i-th unit vector
ggml_tensor * capkv_build_mean_rotation(const capkv_score_ctx & sc, int64_t n_future);

// norm of each vector of x, F32 [d, n, n_head_kv]: [n, n_head_kv]
ggml_tensor * capkv_build_norm(const capkv_score_ctx & sc, const capkv_entries & x);

// cosine of each key to the mean of the normalised keys: [n, n_head_kv]
ggml_tensor * capkv_build_key_cos(const capkv_score_ctx & sc);

// a ridge as kernels/cholesky.h takes it, for all heads: [2, 1]
ggml_tensor * capkv_build_ridge(const capkv_score_ctx & sc, const capkv_ridge & ridge);

// leverage w_i x_i^T A^-1 x_i, A = ridge + sum_i (w_i + eps) x_i x_i^T over the entries from i0 on
//   x: F32 [d, n, n_head_kv], weights.w [n, 1, n_head] (not NULL), ridge [2, n_head] or [2, 1] as in kernels/cholesky.h (weights.ridge
//   is not looked at); result [n, 1, n_head]
ggml_tensor * capkv_build_leverage(const capkv_score_ctx & sc, const capkv_entries & x, const capkv_weights & weights, ggml_tensor * ridge);

// the same of the values, with weights w [n, 1, n_head] over all entries and a ridge of lambda times the mean eigenvalue: on every device,
// to the precision of its products
ggml_tensor * capkv_build_value_leverage(const capkv_score_ctx & sc, ggml_tensor * w, float lambda);
