// knorm: keys with a small norm
//
// Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression" (arXiv 2406.11430)
//
//   score = -|k_i|
//
// Departures from the paper:
//   1. the paper does not compress the first two layers; here every layer has the same budget
//
// Cost per layer: 2 n d flops per KV head

#include "pieces.h"

static capkv_policy_result capkv_score_knorm(const capkv_score_ctx & sc) {
    return { ggml_neg(sc.ctx, capkv_build_norm(sc, sc.k)) };
}

extern const capkv_policy capkv_policy_knorm = {
    /*.name    =*/ "knorm",
    /*.help    =*/ "keys of small norm (L2 norm)",
    /*.observe =*/ CAPKV_OBSERVE_NONE,
    /*.score   =*/ capkv_score_knorm,
};
