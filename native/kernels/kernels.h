#pragma once

#include "ggml.h"

#include <vector>

// the computations that take most of the time of a policy; x, k: F32 [d, n, n_head_kv], a KV head serves n_head/n_head_kv
// query heads
struct capkv_kernels {
    // mean over the queries of softmax_i(q_j . k_i scale), each query over the first n_vis entries of its KV head
    //   q: F32 [d, m, n_head], n_vis: F32 [m, n_head_kv]; result: F32 [n, 1, n_head]
    ggml_tensor * (*mean_softmax)(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, ggml_tensor * n_vis, float scale);

    // mean + spread*variance, over the queries, of the logits q_j . k_i scale
    //   q: F32 [d, m, n_head]; result: F32 [n, 1, n_head]
    ggml_tensor * (*mean_var)(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, float scale, float spread);

    // sum_i w_i x_i x_i^T over the entries from i0 on
    //   w: F32 [n, 1, n_head]; result: F32 [d, d, n_head]
    ggml_tensor * (*gram)(ggml_context * ctx, ggml_tensor * x, ggml_tensor * w, int64_t i0);

    // |L^-1 x_i|^2
    //   l_inv: F32 [d, d, n_head], lower triangular, as of capkv_build_cholesky_inv(); result: F32 [n, 1, n_head]
    ggml_tensor * (*sqnorm)(ggml_context * ctx, ggml_tensor * x, ggml_tensor * l_inv);

    // sum_i x_i/|x_i|
    //   result: F32 [d, 1, n_head_kv]
    ggml_tensor * (*unit_sum)(ggml_context * ctx, ggml_tensor * x);

    // y . x_i/|x_i|
    //   y: F32 [d, 1, n_head_kv]; result: F32 [n, 1, n_head_kv]
    ggml_tensor * (*unit_dot)(ggml_context * ctx, ggml_tensor * x, ggml_tensor * y);
};

// graphs of ggml's operators, for every device
extern const capkv_kernels capkv_kernels_graph;

// fused into one custom op each, for data in host memory: what the graph writes to memory between its operators stays in
// registers and L1
extern const capkv_kernels capkv_kernels_cpu;

// the ones to use; also in host memory the graphs are faster if the compiler was given no vector units
const capkv_kernels & capkv_get_kernels(bool on_host);

//
// parts of graphs
//

// a^T b, as ggml_mul_mat(), summed in F32 at least
ggml_tensor * capkv_build_mul_mat(ggml_context * ctx, ggml_tensor * a, ggml_tensor * b);

// tensors side by side along a dimension; NULL if they are
ggml_tensor * capkv_build_join(ggml_context * ctx, std::vector<ggml_tensor *> parts, int dim);

// sum over dim 1: [n, m, n_head] -> [n, 1, n_head]
ggml_tensor * capkv_build_sum1(ggml_context * ctx, ggml_tensor * x);

// inner products of all entries with m vectors for each query head: x [d, n, n_head_kv], y [d, m, n_head] -> [n, m, n_head]
ggml_tensor * capkv_build_dot(ggml_context * ctx, ggml_tensor * x, ggml_tensor * y);

// [1, r, n, n_head_kv] -> [n, 1, r*n_head_kv]
ggml_tensor * capkv_build_entries_first(ggml_context * ctx, ggml_tensor * x);
