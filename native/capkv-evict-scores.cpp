// capkv_evictor: scores of the entries, for an eviction and for those who only look

#include "capkv-evict.h"

#include "capkv-error.h"

#include <algorithm>

ggml_status capkv_evictor::compute_scores(llama_context * lctx, plan & p, const std::function<void(const score_out &, const capkv_outputs &)> & f) {
    for (auto & part : spans_scores) {
        std::vector<score_out> outs;
        capkv_outputs outputs;

        const int64_t t_start_us = ggml_time_us();

        const auto res = compute(lctx, part, n_nodes_scores(part), outputs, [&](ggml_context * ctx, capkv_inputs & inputs) {
            ggml_cgraph * gf = build_scores(ctx, inputs, p, part, outs);
            for (const auto & out : outs) {
                outputs.add(out.score);
                outputs.add(out.w);
                outputs.add(out.sum);
            }
            return gf;
        });
        if (res != GGML_STATUS_SUCCESS) {
            return res;
        }
        p.t_scores_us += ggml_time_us() - t_start_us;

        for (const auto & out : outs) {
            f(out, outputs);
        }
    }

    return GGML_STATUS_SUCCESS;
}

std::vector<float> capkv_evictor::scores(llama_context * lctx, uint32_t s) {
    plan p = make_plan(s, kv.get_cells(s).get_used());

    const size_t n = p.order.size();
    if (n == 0) {
        return {};
    }
    if (!sched.exists()) {
        throw capkv_error("scores: there is no work memory");
    }

    std::vector<size_t> first; // [n_layers] the first head of a layer among those of all layers
    size_t n_heads_all = 0;
    for (const auto & l : layers) {
        first.push_back(n_heads_all);
        n_heads_all += l.n_head_kv;
    }

    std::vector<float> res(n_heads_all*n);

    capkv_sched::wait(lctx);

    const auto status = compute_scores(lctx, p, [&](const score_out & out, const capkv_outputs & outputs) {
        const auto & score = outputs.get(out.score);

        const size_t n_group = score.size()/out.n_layers; // of one layer

        for (size_t i = 0; i < out.n_layers; ++i) {
            std::copy_n(score.begin() + i*n_group, n_group, res.begin() + (first[out.ilayer + i] + out.head0)*n);
        }
    });
    if (status != GGML_STATUS_SUCCESS) {
        throw capkv_error("scores: they could not be computed");
    }

    return res;
}
