// h2o: the attention received so far, from a sample of all queries
//
// Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models" (arXiv 2306.14048)
//
//   score = mean over the query heads of the group and the sampled queries of softmax_i(q_j . k_i kq_scale), where each query
//           is at its own position and sees the entries up to there
//
// Departures from the paper:
//   1. flash attention does not store its weights: they are recomputed for a uniform sample of 64 of the queries seen
//   2. each softmax therefore runs over the entries still held, not over those held when the query was asked
//   3. kv_recent protects the recent tokens; the paper gives them half of the budget
//
// Cost per layer: 2 n d n_res flops per query head

#include "pieces.h"

static constexpr int64_t CAPKV_H2O_N_RES = 64;

static capkv_policy_result capkv_score_h2o(const capkv_score_ctx & sc) {
    ggml_tensor * w = sc.q_res ? capkv_build_attention(sc, sc.q_res.q, sc.q_res.pos) : capkv_build_uniform(sc);

    return { capkv_build_group_mean(sc, w), { w } };
}

extern const capkv_policy capkv_policy_h2o = {
    /*.name    =*/ "h2o",
    /*.help    =*/ "attention received so far, recomputed for 64 sampled queries (H2O)",
    /*.observe =*/ { /*.mean =*/ false, /*.cov =*/ false, /*.n_res =*/ CAPKV_H2O_N_RES, /*.n_last =*/ 0 },
    /*.score   =*/ capkv_score_h2o,
};
