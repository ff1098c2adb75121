// keydiff: keys unlike the mean key
//
// Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in Resource-Constrained
// Environments" (arXiv 2504.15364)
//
//   score = -cos(k_i, mean_j k_j/|k_j|)      over all entries of the KV head, keys after RoPE
//
// Departures from the paper:
//   1. the paper evicts after each block of the prompt; here an eviction comes when the cache is full
//
// Cost per layer: about 4 n d flops per KV head

#include "pieces.h"

static capkv_policy_result capkv_score_keydiff(const capkv_score_ctx & sc) {
    return { ggml_neg(sc.ctx, capkv_build_key_cos(sc)) };
}

extern const capkv_policy capkv_policy_keydiff = {
    /*.name    =*/ "keydiff",
    /*.help    =*/ "keys unlike the mean key (KeyDiff)",
    /*.observe =*/ CAPKV_OBSERVE_NONE,
    /*.score   =*/ capkv_score_keydiff,
};
