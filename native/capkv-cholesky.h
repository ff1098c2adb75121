#pragma once

#include "capkv-policy.h"

// rows of L^-1, with L L^T = M + ridge: |L^-1 v|^2 = v^T (M + ridge)^-1 v
//   m: F32 [d, d, n], symmetric; result: F32 [d, d, n], lower triangular, ne1 counts the rows of L^-1
//   ridge has to outlive the graph
// a custom op on the CPU, in double inside; of a cache elsewhere only m and the result travel
ggml_tensor * capkv_build_cholesky_inv(ggml_context * ctx, ggml_tensor * m, const capkv_ridge * ridge);
