// tova: what the last token attends to
//
// Oren et al., "Transformers are Multi-State RNNs" (arXiv 2401.06104): token omission via attention
//
//   score = mean over the query heads of the group of softmax_i(q . k_i kq_scale), q the last token's query
//
// Departures from the paper:
//   1. the paper takes the mean over all heads of a layer, so that they hold the same tokens; here each KV head chooses for itself
//   2. the paper evicts one token at each step; here the last query before an eviction decides about all that is evicted
//
// Cost per layer: 2 n d flops per query head

#include "pieces.h"

static capkv_policy_result capkv_score_tova(const capkv_score_ctx & sc) {
    ggml_tensor * w = sc.q_last ? capkv_build_attention(sc, sc.q_last.q, sc.q_last.pos) : capkv_build_uniform(sc);

    return { capkv_build_group_mean(sc, w), { w } };
}

extern const capkv_policy capkv_policy_tova = {
    /*.name    =*/ "tova",
    /*.help    =*/ "what the last query attends to (TOVA)",
    /*.observe =*/ { /*.mean =*/ false, /*.cov =*/ false, /*.n_res =*/ 0, /*.n_last =*/ 1 },
    /*.score   =*/ capkv_score_tova,
};
