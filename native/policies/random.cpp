// random: a random choice per KV head and eviction: the baseline, with the same sinks and recent tokens protected
//
// Cost: none

#include "policy.h"

#include "capkv.h"

static capkv_policy_result capkv_score_random(const capkv_score_ctx & sc) {
    std::vector<float> data(sc.n*sc.n_head_kv);

    const uint64_t key = capkv_hash(capkv_hash(sc.params.seed) + sc.n_evictions);

    for (int64_t h = 0; h < sc.n_head_kv; ++h) {
        const uint64_t key_h = capkv_hash(capkv_hash(key + (uint64_t) sc.heads[h].il) + (uint64_t) sc.heads[h].i);
        for (int64_t i = 0; i < sc.n; ++i) {
            // 24 bits: each value is a different float
            data[h*sc.n + i] = (float) (capkv_hash(key_h + (uint64_t) i) >> 40)/(float) (1 << 24);
        }
    }

    return { ggml_scale(sc.ctx, sc.inputs.add_f32(sc.ctx, data, sc.n, sc.n_head_kv), 1.0f) };
}

extern const capkv_policy capkv_policy_random = {
    /*.name    =*/ "random",
    /*.help    =*/ "any entry, with equal chance (seeded)",
    /*.observe =*/ CAPKV_OBSERVE_NONE,
    /*.score   =*/ capkv_score_random,
};
