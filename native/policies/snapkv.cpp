// snapkv: what the last tokens attend to, pooled over neighbours
//
// Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation" (arXiv 2404.14469)
//
//   w_i   = mean over the window's queries of softmax_i(q . k_i kq_scale), causal
//   score = mean over the query heads of the group of w, averaged over 5 neighbours; the window's own entries are always kept
//
// Departures from the paper:
//   1. the paper compresses once, after the prompt; here the window is the last tokens before each eviction
//   2. the window's queries are kept as f16; after a rollback it is shorter until new tokens come
//
// Cost per layer: 2 n d n_last flops per query head

#include "pieces.h"

#include <algorithm>

static constexpr int64_t CAPKV_SNAPKV_WINDOW = 64;
static constexpr int64_t CAPKV_SNAPKV_POOL   = 2; // neighbours on each side

static capkv_policy_result capkv_score_snapkv(const capkv_score_ctx & sc) {
    ggml_context * ctx = sc.ctx;

    if (!sc.q_last) {
        return { capkv_build_group_mean(sc, capkv_build_uniform(sc)) };
    }

    ggml_tensor * w = capkv_build_attention(sc, sc.q_last.q, sc.q_last.pos);

    const int64_t m = std::min<int64_t>(sc.q_last.pos.size(), sc.n);
    const int64_t p = CAPKV_SNAPKV_POOL;

    // above any weight
    ggml_tensor * window = ggml_fill(ctx, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, m, sc.n_head_kv), 2.0f);
    if (m == sc.n) {
        return { window, { w } };
    }

    ggml_tensor * s = capkv_build_group_mean(sc, w); // [n, n_head_kv]
    s = ggml_cont(ctx, ggml_view_2d(ctx, s, sc.n - m, sc.n_head_kv, s->nb[1], 0));
    s = ggml_pool_2d(ctx, s, GGML_OP_POOL_AVG, 2*p + 1, 1, 1, 1, p, 0);

    return { ggml_concat(ctx, s, window, 0), { w } };
}

extern const capkv_policy capkv_policy_snapkv = {
    /*.name    =*/ "snapkv",
    /*.help    =*/ "what the last 64 queries attend to, averaged over five neighbours (SnapKV)",
    /*.observe =*/ { /*.mean =*/ false, /*.cov =*/ false, /*.n_res =*/ 0, /*.n_last =*/ CAPKV_SNAPKV_WINDOW },
    /*.score   =*/ capkv_score_snapkv,
};
