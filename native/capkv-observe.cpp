// what a policy observes of the queries: nodes in the graph of each batch

#include "capkv-cache.h"

#include "llama-graph.h"
#include "llama-impl.h"

#include <algorithm>
#include <cstring>

// which tokens of the batch at hand are taken; has to be there even when there are none, to veto the reuse of the graph
// for a batch that has some
class capkv_graph_input : public llm_graph_input_i {
public:
    capkv_graph_input(capkv_cache & cache, size_t n_res, bool warmup) : cache(cache), n_res(n_res), warmup(warmup) {}

    void set_input(const llama_ubatch * ubatch) override {
        const auto plan = cache.plan_observe(*ubatch, warmup);

        GGML_ASSERT(plan.res.size() == n_res);

        std::vector<int32_t> src;
        std::vector<int64_t> dst;

        for (const auto & item : plan.res) {
            src.push_back(item.i);
            dst.push_back(item.dst);
        }

        if (res_src) { ggml_backend_tensor_set(res_src, src.data(),      0, ggml_nbytes(res_src)); }
        if (res_dst) { ggml_backend_tensor_set(res_dst, dst.data(),      0, ggml_nbytes(res_dst)); }
        if (sum_sel) { ggml_backend_tensor_set(sum_sel, plan.sum.data(), 0, ggml_nbytes(sum_sel)); }

        cache.commit_observe(plan);
    }

    bool can_reuse(const llm_graph_params & params) override {
        warmup = params.cparams.warmup;

        return cache.plan_observe(params.ubatch, warmup).res.size() == n_res;
    }

    ggml_tensor * res_src = nullptr; // I32 [n_res]
    ggml_tensor * res_dst = nullptr; // I64 [n_res]
    ggml_tensor * sum_sel = nullptr; // F32 [n_tokens, n_stream]

    capkv_cache & cache;

    const size_t n_res;
    bool warmup;
};

static capkv_graph_input * capkv_find_input(const llm_graph_context & g, const capkv_cache & cache) {
    for (auto & inp : g.res->inputs) {
        auto * res = dynamic_cast<capkv_graph_input *>(inp.get());
        if (res && &res->cache == &cache) {
            return res;
        }
    }
    return nullptr;
}

// go back from what the attention gets to the RoPE node; NULL for a layer without one
//   scale: of the nodes on the way
static ggml_tensor * capkv_find_rope(ggml_tensor * q, float & scale) {
    for (int i = 0; i < 8 && q; ++i) {
        switch (q->op) {
            case GGML_OP_ROPE:
                return q;
            case GGML_OP_SCALE:
                {
                    float s;
                    memcpy(&s, q->op_params, sizeof(s));
                    scale *= s;
                } break;
            case GGML_OP_RESHAPE:
            case GGML_OP_CONT:
                break;
            default:
                return nullptr;
        }
        q = q->src[0];
    }
    return nullptr;
}

uint64_t capkv_cache::res_key(llama_pos pos) const {
    return capkv_hash(capkv_hash(params.seed) + (uint64_t) pos);
}

capkv_cache::observe_plan capkv_cache::plan_observe(const llama_ubatch & ubatch, bool warmup) const {
    observe_plan plan;

    if (policy.observe & CAPKV_OBSERVE_MEAN) {
        plan.sum.resize((size_t) ubatch.n_tokens*streams.size(), 0.0f);
    }

    if (warmup || policy.observe == CAPKV_OBSERVE_NONE) {
        return plan;
    }

    std::vector<std::vector<slot>> slots(streams.size()); // copies, of the streams at hand

    std::vector<std::vector<int32_t>> taken(streams.size()); // [CAPKV_N_RES] token of the ubatch or -1

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const uint32_t  s   = seq_stream(ubatch.seq_id[i][0]);
        const llama_pos pos = ubatch.pos[i];

        if (pos < (llama_pos) params.n_sink) {
            continue;
        }

        if (policy.observe & CAPKV_OBSERVE_MEAN) {
            plan.sum[(size_t) s*ubatch.n_tokens + i] = 1.0f;
        }

        if (policy.observe & CAPKV_OBSERVE_RES) {
            if (slots[s].empty()) {
                slots[s] = streams[s].res;
                taken[s].assign(CAPKV_N_RES, -1);
            }

            const uint64_t key = res_key(pos);

            size_t dst = 0;
            for (size_t j = 0; j < slots[s].size(); ++j) {
                const auto & cur = slots[s][j];
                const auto & max = slots[s][dst];
                if (cur.pos == pos) {
                    dst = j;
                    break;
                }
                if (max.pos >= 0 && (cur.pos < 0 || cur.key > max.key)) {
                    dst = j;
                }
            }

            auto & old = slots[s][dst];
            if (old.pos < 0 || old.pos == pos || key < old.key) {
                old = { pos, key };
                taken[s][dst] = i;
            }
        }
    }

    for (size_t s = 0; s < taken.size(); ++s) {
        for (size_t j = 0; j < taken[s].size(); ++j) {
            if (taken[s][j] >= 0) {
                plan.res.push_back({ taken[s][j], (int64_t) (s*CAPKV_N_RES + j), (uint32_t) s, slots[s][j] });
            }
        }
    }

    return plan;
}

void capkv_cache::commit_observe(const observe_plan & plan) {
    for (const auto & item : plan.res) {
        streams[item.s].res[item.dst % CAPKV_N_RES] = item.new_slot;
    }

    const size_t n_tokens = plan.sum.size()/streams.size();
    for (size_t s = 0; s < streams.size(); ++s) {
        for (size_t i = 0; i < n_tokens; ++i) {
            streams[s].n_sum += plan.sum[s*n_tokens + i] > 0.0f;
        }
    }
}

void capkv_cache::build_observe(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, float kq_scale, int il) {
    const auto it = std::find_if(layers.begin(), layers.end(), [&](const layer & l) { return (int) l.il == il; });

    // a layer that reuses another one's cells
    if (it == layers.end()) {
        return;
    }

    layer & l = *it;

    float scale = kq_scale;
    ggml_tensor * rope = capkv_find_rope(q_cur, scale);
    ggml_tensor * q    = rope ? rope->src[0] : q_cur; // [d_k, n_head, n_tokens] before RoPE

    l.kq_scale = rope ? scale : kq_scale;
    l.rope     = {};
    if (rope) {
        l.rope.on      = true;
        l.rope.factors = rope->src[2];
        memcpy(l.rope.params, rope->op_params, sizeof(l.rope.params));
    }

    if (policy.observe == CAPKV_OBSERVE_NONE) {
        return;
    }

    GGML_ASSERT(q->ne[0] == l.d_k && q->ne[1] == l.n_head && q->type == GGML_TYPE_F32);

    ggml_context * ctx = g.ctx0;

    const int64_t n_tokens = q->ne[2];
    const int64_t n_stream = streams.size();

    auto * inp = capkv_find_input(g, *this);

    if (!inp) {
        // a graph that is only reserved has no batch yet: take the most that one could
        const bool   reserve = mctx->ubatches.empty();
        const size_t n_res   =
            !(policy.observe & CAPKV_OBSERVE_RES) ? 0 :
            reserve ? std::min<size_t>(n_tokens, CAPKV_N_RES*n_stream) : plan_observe(g.ubatch, g.cparams.warmup).res.size();

        inp = static_cast<capkv_graph_input *>(g.res->add_input(std::make_unique<capkv_graph_input>(*this, n_res, g.cparams.warmup)));

        if (n_res > 0) {
            inp->res_dst = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_res);
            ggml_set_input(inp->res_dst);
            if (n_tokens > 1) {
                inp->res_src = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_res);
                ggml_set_input(inp->res_src);
            }
        }
        if (policy.observe & CAPKV_OBSERVE_MEAN) {
            inp->sum_sel = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_tokens, n_stream);
            ggml_set_input(inp->sum_sel);
        }
    }

    if (inp->n_res == 0 && !inp->sum_sel) {
        return;
    }

    if (q->nb[1] != l.d_k*sizeof(float)) {
        q = ggml_cont(ctx, q);
    }
    q = ggml_view_2d(ctx, q, l.d_k*l.n_head, n_tokens, q->nb[2], 0); // [d_k*n_head, n_tokens]

    if (inp->n_res > 0) {
        ggml_tensor * rows = inp->res_src ? ggml_get_rows(ctx, q, inp->res_src) : q; // [d_k*n_head, n_res]

        ggml_build_forward_expand(g.gf, ggml_set_rows(ctx, l.q_res, rows, inp->res_dst));
    }

    if (inp->sum_sel) {
        ggml_tensor * sum = ggml_mul_mat(ctx, ggml_cont(ctx, ggml_transpose(ctx, q)), inp->sum_sel); // [d_k*n_head, n_stream]

        ggml_build_forward_expand(g.gf, ggml_cpy(ctx, ggml_add(ctx, l.q_sum, sum), l.q_sum));
    }
}
