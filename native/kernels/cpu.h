#pragma once

#include "ggml.h"

// fused kernels for caches in host memory: what a graph of ggml's operators would write to memory in between stays in
// registers and L1; the graphs in policies/pieces.cpp compute the same elsewhere

// false where the compiler was given no vector unit worth the name: the graphs are faster then
bool capkv_cpu_has_kernels();

// mean over the queries of softmax_i(q_j . k_i scale)
//   k: F32 [d, n, n_head_kv], q: F32 [d, m, n_head]; result: F32 [n, 1, n_head]
//   n_vis: F32 [m, n_head_kv] how many entries, from the first one on, each query sees; NULL = all
ggml_tensor * capkv_build_mean_softmax_cpu(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, ggml_tensor * n_vis, float scale);

// mean + spread*variance, over the queries, of the logits q_j . k_i scale
//   k: F32 [d, n, n_head_kv], q: F32 [d, m, n_head]; result: F32 [n, 1, n_head]
ggml_tensor * capkv_build_gauss_cpu(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, float scale, float spread);

// |L^-1 v_i|^2
//   v: F32 [d, n, n_head_kv], l_inv: F32 [d, d, n_head], lower triangular; result: F32 [n, 1, n_head]
ggml_tensor * capkv_build_sqnorm_cpu(ggml_context * ctx, ggml_tensor * v, ggml_tensor * l_inv);

// sum_i w_i v_i v_i^T over the entries from i0 on
//   v: F32 [d, n, n_head_kv], w: F32 [n, 1, n_head]; result: F32 [d, d, n_head]
ggml_tensor * capkv_build_gram_cpu(ggml_context * ctx, ggml_tensor * v, ggml_tensor * w, int64_t i0);
