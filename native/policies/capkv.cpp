// capkv: leverage of the values under expected attention, estimated from a sample of queries, plus key novelty
//
// Yang, Tang, Zhen, Lv, "Rethinking KV Cache Eviction via a Unified Information-Theoretic Objective" (arXiv 2604.25975)
// Park et al., "KeyDiff" (arXiv 2504.15364): the novelty term
//
//   a_ij  = q_j.k_i kq_scale                                  q_j: the sampled queries, rotated to future positions
//   w_i   = softmax_i(mean_j a_ij + 1/2 var_j a_ij)           over all entries
//   A     = lambda tr(M)/d_v I + M, M = sum_i w_i v_i v_i^T   lambda 1
//   s_i   = w_i v_i^T A^-1 v_i                                averaged over the query heads of the group
//   score = z(log s_i) + novelty z(-cos(k_i, mean_j k_j/|k_j|))
//                                                             z: standardised over the entries of the KV head
//
// Departures from the paper:
//   1. w is not exp(tau <k, mean query>). It is the attention expected of normally distributed queries with the mean and the
//      spread of the sampled ones, as in Expected Attention (arXiv 2510.00636), but without a covariance of d_k^2 floats.
//      Compared with the mean attention of the sample, it favours entries that few queries attend to strongly.
//   2. the ridge is relative to M: w sums to one, so an absolute ridge of 1 would outweigh M
//   3. novelty favours keys unlike the others, for later questions that no sampled query resembles
//
// Cost per layer: about 2 n d n_res + 4 n d^2 flops per query head

#include "pieces.h"

#include "capkv.h"

#include <cmath>

static constexpr int64_t CAPKV_N_RES  = 90;   // queries; in q8_0 they take 6 % of the bytes of an 8B model's f16 cells at budget 1024
static constexpr float   CAPKV_SPREAD = 0.5f; // E exp(a) = exp(mean + var/2) if a is normally distributed
static constexpr float   CAPKV_LAMBDA = 1.0f; // of the ridge

// w: F32 [n, 1, n_head]
static ggml_tensor * capkv_build_future_attention(const capkv_score_ctx & sc) {
    if (!sc.q_res) {
        return capkv_build_uniform(sc);
    }

    std::vector<int32_t> pos(sc.q_res.pos.size());
    for (size_t j = 0; j < pos.size(); ++j) {
        pos[j] = sc.next_pos + capkv_res_offset(sc.params.seed, j);
    }

    return capkv_build_expected_attention(sc, sc.q_res.q, pos, CAPKV_SPREAD);
}

static capkv_policy_result capkv_score_capkv(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * w = capkv_build_future_attention(sc);
    ggml_tensor * s = capkv_build_group_mean(sc, capkv_build_value_leverage(sc, w, CAPKV_LAMBDA)); // [n, n_head_kv]

    // the leverage of an entry with a zero value or weight is 0: clamp it, so that its logarithm is finite
    s = ggml_norm(ctx, ggml_log(ctx, ggml_clamp(ctx, s, 1e-30f, INFINITY)), 1e-10f);

    s = ggml_sub(ctx, s, ggml_scale(ctx, ggml_norm(ctx, capkv_build_key_cos(sc), 1e-10f), sc.params.novelty));

    return { s, { w } };
}

extern const capkv_policy capkv_policy_capkv = {
    /*.name    =*/ "capkv",
    /*.help    =*/ "leverage under the attention expected of queries like a sample of 90, plus key novelty",
    /*.observe =*/ { /*.mean =*/ false, /*.cov =*/ false, /*.n_res =*/ CAPKV_N_RES, /*.n_last =*/ 0, /*.type =*/ GGML_TYPE_Q8_0 },
    /*.score   =*/ capkv_score_capkv,
};
