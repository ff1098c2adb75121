// streaming: the sinks and a window of the last tokens
//
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453)
//
// Departures from the paper:
//   1. keys keep the positions that they were computed for; the paper numbers positions within the cache
//
// Least recently used would give the same order: attention reads every entry at every step, so entries differ only in age.
//
// Cost: none

#include "policy.h"

static capkv_policy_result capkv_score_streaming(const capkv_score_ctx & sc) {
    ggml_tensor * age = ggml_arange(sc.ctx, 0.0f, (float) sc.n, 1.0f); // [n]

    return { ggml_repeat_4d(sc.ctx, age, sc.n, sc.n_head_kv, 1, 1) };
}

extern const capkv_policy capkv_policy_streaming = {
    /*.name    =*/ "streaming",
    /*.help    =*/ "the sinks and the most recent tokens (StreamingLLM)",
    /*.observe =*/ CAPKV_OBSERVE_NONE,
    /*.score   =*/ capkv_score_streaming,
};
