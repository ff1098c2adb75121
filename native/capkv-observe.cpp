// what a policy observes of the queries: nodes in the graph of each batch

#include "capkv-cache.h"
#include "capkv-memory.h"

#include "llama-graph.h"
#include "llama-impl.h"

#include <algorithm>
#include <cstring>

// batches without a sampled query that a graph with rows for some is kept for: to build a graph costs about as much as to compute
// those rows eight times
static constexpr int CAPKV_N_IDLE = 8;

// which tokens of the batch at hand are taken; has to be there even when there are none, to veto the reuse of the graph
// for a batch that has some
class capkv_graph_input : public llm_graph_input_i {
public:
    capkv_graph_input(capkv_cache & cache, ggml_backend_sched_t sched, size_t n_rows, bool warmup) :
        cache(cache), sched(sched), n_rows(n_rows), warmup(warmup) {}

    void set_input(const llama_ubatch * ubatch) override {
        const auto plan = cache.plan_observe(*ubatch, warmup);

        GGML_ASSERT(plan.rows.size() <= n_rows);

        std::vector<int32_t> src(n_rows, 0);
        std::vector<int64_t> dst(n_rows);

        for (size_t i = 0; i < n_rows; ++i) {
            if (i < plan.rows.size()) {
                src[i] = plan.rows[i].i;
                dst[i] = plan.rows[i].dst;
            } else {
                dst[i] = cache.scratch_row(i);
            }
        }
        n_idle = plan.rows.empty() ? n_idle + 1 : 0;

        // the sums of a sequence that begins are cleared, which a batch before this one may still write to
        if (cache.clears_sums(plan)) {
            ggml_backend_sched_synchronize(sched);
        }

        if (row_src) { ggml_backend_tensor_set(row_src, src.data(),      0, ggml_nbytes(row_src)); }
        if (row_dst) { ggml_backend_tensor_set(row_dst, dst.data(),      0, ggml_nbytes(row_dst)); }
        if (sum_sel) { ggml_backend_tensor_set(sum_sel, plan.sum.data(), 0, ggml_nbytes(sum_sel)); }

        cache.commit_observe(plan);
    }

    bool can_reuse(const llm_graph_params & params) override {
        warmup = params.cparams.warmup;

        const size_t n = cache.plan_observe(params.ubatch, warmup).rows.size();

        return n == n_rows || (n < n_rows && n_rows <= cache.n_scratch() && (n > 0 || n_idle < CAPKV_N_IDLE));
    }

    ggml_tensor * row_src = nullptr; // I32 [n_rows]
    ggml_tensor * row_dst = nullptr; // I64 [n_rows]
    ggml_tensor * sum_sel = nullptr; // F32 [n_tokens, n_stream]

    capkv_cache & cache;

    ggml_backend_sched_t sched; // of the batches

    const size_t n_rows; // what is more than the batch at hand has goes to scratch rows
    bool warmup;
    int  n_idle = 0;     // batches without a row, up to now
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

// from the RoPE node to what the attention gets
struct capkv_after_rope {
    float         scale  = 1.0f;
    ggml_tensor * factor = nullptr;  // of each token
    ggml_tensor * norm   = nullptr;  // the RMS norm
    ggml_tensor * weight = nullptr;  // of the norm
};

// go back from what the attention gets to the RoPE node; NULL for a layer without one
static ggml_tensor * capkv_find_rope(ggml_tensor * q, capkv_after_rope & after) {
    for (int i = 0; i < 8 && q; ++i) {
        switch (q->op) {
            case GGML_OP_ROPE:
                return q;
            case GGML_OP_SCALE:
                {
                    float s;
                    memcpy(&s, q->op_params, sizeof(s));
                    after.scale *= s;
                } break;
            case GGML_OP_MUL:
                if (after.norm || after.weight || after.factor) {
                    return nullptr;
                }
                if (q->src[1]->ne[0] == 1 && q->src[1]->ne[1] == 1) {
                    after.factor = q->src[1];
                } else if (ggml_nelements(q->src[1]) == q->ne[0]) {
                    after.weight = q->src[1];
                } else {
                    return nullptr;
                }
                break;
            case GGML_OP_RMS_NORM:
                if (after.norm) {
                    return nullptr;
                }
                after.norm = q;
                break;
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

size_t capkv_cache::n_scratch() const {
    return obs.n_rows_per_token()*streams.size();
}

int64_t capkv_cache::scratch_row(size_t i) const {
    return obs.n_rows()*streams.size() + i;
}

size_t capkv_cache::pad_rows(size_t n) const {
    size_t res = std::min<size_t>(n, 1);
    while (res < n) {
        res *= 2;
    }
    return n > n_scratch() ? n : std::min(res, n_scratch());
}

uint64_t capkv_cache::res_key(llama_pos pos) const {
    return capkv_hash(capkv_hash(params.seed) + (uint64_t) pos);
}

// the row of a reservoir that a token takes: its own, a free one, or that of the highest key if its own is lower; else -1
static int64_t capkv_res_slot(const std::vector<capkv_cache::slot> & slots, int64_t n_res, llama_pos pos, uint64_t key) {
    int64_t dst = 0;
    for (int64_t j = 0; j < n_res; ++j) {
        const auto & cur = slots[j];
        const auto & max = slots[dst];
        if (cur.pos == pos) {
            return j;
        }
        if (max.pos >= 0 && (cur.pos < 0 || cur.key > max.key)) {
            dst = j;
        }
    }
    return slots[dst].pos < 0 || key < slots[dst].key ? dst : -1;
}

capkv_cache::observe_plan capkv_cache::plan_observe(const llama_ubatch & ubatch, bool warmup) const {
    observe_plan plan;

    if (obs.mean) {
        plan.sum.resize((size_t) ubatch.n_tokens*streams.size(), 0.0f);
        plan.n_sum.resize(streams.size(), 0);
    }

    if (warmup || !obs.any()) {
        return plan;
    }

    std::vector<std::vector<slot>>    slots(streams.size()); // copies, of the streams at hand
    std::vector<std::vector<int32_t>> taken(streams.size()); // [n_rows] token of the ubatch or -1

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const uint32_t  s   = seq_stream(ubatch.seq_id[i][0]);
        const llama_pos pos = ubatch.pos[i];

        if (pos < (llama_pos) params.n_sink) {
            continue;
        }

        if (obs.mean) {
            plan.sum[(size_t) s*ubatch.n_tokens + i] = 1.0f;
            plan.n_sum[s]++;
        }
        if (obs.n_rows() == 0) {
            continue;
        }
        if (slots[s].empty()) {
            slots[s] = streams[s].slots;
            taken[s].assign(obs.n_rows(), -1);
        }

        const slot cur = { pos, res_key(pos) };

        auto take = [&](int64_t dst) {
            slots[s][dst] = cur;
            taken[s][dst] = i;
        };

        if (obs.n_res > 0) {
            const int64_t dst = capkv_res_slot(slots[s], obs.n_res, pos, cur.key);
            if (dst >= 0) {
                take(dst);
            }
        }
        if (obs.n_last > 0) {
            const int64_t dst = obs.n_res + pos % obs.n_last;
            if (pos >= slots[s][dst].pos) {
                take(dst);
            }
        }
    }

    for (size_t s = 0; s < taken.size(); ++s) {
        for (size_t j = 0; j < taken[s].size(); ++j) {
            if (taken[s][j] >= 0) {
                plan.rows.push_back({ taken[s][j], (int64_t) (s*obs.n_rows() + j), (uint32_t) s, slots[s][j] });
            }
        }
    }

    return plan;
}

bool capkv_cache::clears_sums(const observe_plan & plan) const {
    for (size_t s = 0; s < plan.n_sum.size(); ++s) {
        if (plan.n_sum[s] > 0 && streams[s].n_sum == 0) {
            return true;
        }
    }
    return false;
}

void capkv_cache::commit_observe(const observe_plan & plan) {
    for (const auto & item : plan.rows) {
        streams[item.s].slots[item.dst % obs.n_rows()] = item.new_slot;
    }

    for (size_t s = 0; s < plan.n_sum.size(); ++s) {
        if (plan.n_sum[s] > 0 && streams[s].n_sum == 0) {
            clear_sums(s);
        }
        streams[s].n_sum += plan.n_sum[s];
    }
}

// sum += x sel: x [d*n_head, n_tokens], sel [n_tokens, n_stream], sum [d*n_head, n_stream]
static void capkv_build_sum(const llm_graph_context & g, ggml_tensor * x, ggml_tensor * sel, ggml_tensor * sum) {
    ggml_context * ctx = g.ctx0;

    ggml_tensor * cur = ggml_mul_mat(ctx, ggml_cont(ctx, ggml_transpose(ctx, x)), sel);
    ggml_prec_set_acc(cur, GGML_PREC_F32);

    ggml_build_forward_expand(g.gf, ggml_cpy(ctx, ggml_add(ctx, sum, cur), sum));
}

// cov += sum over the selected tokens of q q^T: q [d*n_head, n_tokens], sel [n_tokens, n_stream], cov [d*d*n_head, n_stream]
static void capkv_build_cov(const llm_graph_context & g, ggml_tensor * q, int64_t d, ggml_tensor * sel, ggml_tensor * cov) {
    ggml_context * ctx = g.ctx0;

    ggml_tensor * qt = ggml_cont(ctx, ggml_transpose(ctx, q));
    qt = ggml_reshape_3d(ctx, qt, qt->ne[0], d, qt->ne[1]/d); // [n_tokens, d, n_head]

    for (int64_t s = 0; s < sel->ne[1]; ++s) {
        ggml_tensor * sel_s = ggml_view_1d(ctx, sel, sel->ne[0], s*sel->nb[1]);
        ggml_tensor * cov_s = ggml_view_1d(ctx, cov, cov->ne[0], s*cov->nb[1]);

        ggml_tensor * cur = ggml_mul_mat(ctx, qt, ggml_mul(ctx, qt, sel_s)); // [d, d, n_head]
        ggml_prec_set_acc(cur, GGML_PREC_F32);

        cur = ggml_add(ctx, cov_s, ggml_reshape_1d(ctx, cur, ggml_nelements(cur)));
        ggml_build_forward_expand(g.gf, ggml_cpy(ctx, cur, cov_s));
    }
}

uint32_t capkv_cache::n_nodes_observe() const {
    uint32_t n = 4; // what follows the rotation: norm, factor, cont, view
    if (obs.n_rows() > 0) {
        n += 2;
    }
    if (obs.mean) {
        n += 5; // capkv_build_sum()
    }
    if (obs.cov) {
        n += 3 + 7*streams.size(); // capkv_build_cov()
    }
    return obs.any() ? layers.size()*n + 3 : 0; // and the inputs
}

void capkv_cache::build_observe(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, float kq_scale, int il) {
    const auto it = std::find_if(layers.begin(), layers.end(), [&](const layer & l) { return (int) l.il == il; });

    // a layer that reuses another one's cells
    if (it == layers.end()) {
        return;
    }

    layer & l = *it;

    capkv_after_rope after;
    ggml_tensor * rope = capkv_find_rope(q_cur, after);
    ggml_tensor * q    = rope ? rope->src[0] : q_cur; // [d_k, n_head, n_tokens] before RoPE

    l.observed = true;
    l.kq_scale = rope ? kq_scale*after.scale : kq_scale;
    l.rope     = {};
    if (rope) {
        l.rope.on      = true;
        l.rope.factors = rope->src[2];
        l.rope.weight  = after.weight;
        memcpy(l.rope.params, rope->op_params, sizeof(l.rope.params));
    }

    if (!obs.any()) {
        return;
    }

    GGML_ASSERT(q->ne[0] == l.d_k && q->ne[1] == l.n_head && q->type == GGML_TYPE_F32);

    ggml_context * ctx = g.ctx0;

    const int64_t n_tokens = q->ne[2];
    const int64_t n_stream = streams.size();

    auto * inp = capkv_find_input(g, *this);

    if (!inp) {
        // a graph that is only reserved has no batch yet: take the most that one could
        const bool   reserve = capkv_memory::is_reserve(mctx);
        const size_t n_rows  = reserve ?
            std::min<size_t>(n_tokens*obs.n_rows_per_token(), obs.n_rows()*n_stream) :
            pad_rows(plan_observe(g.ubatch, g.cparams.warmup).rows.size());

        inp = static_cast<capkv_graph_input *>(g.res->add_input(std::make_unique<capkv_graph_input>(*this, g.sched, n_rows, g.cparams.warmup)));

        if (n_rows > 0) {
            inp->row_dst = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_rows);
            ggml_set_input(inp->row_dst);
            inp->row_src = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_rows);
            ggml_set_input(inp->row_src);
        }
        if (obs.mean) {
            inp->sum_sel = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_tokens, n_stream);
            ggml_set_input(inp->sum_sel);
        }
    }

    if (inp->n_rows == 0 && !inp->sum_sel) {
        return;
    }

    // neither changes when it comes before the rotation
    if (rope && after.norm) {
        float eps;
        memcpy(&eps, after.norm->op_params, sizeof(eps));
        q = ggml_rms_norm(ctx, q, eps);
    }
    if (rope && after.factor) {
        q = ggml_mul(ctx, q, after.factor);
    }

    if (q->nb[1] != l.d_k*sizeof(float)) {
        q = ggml_cont(ctx, q);
    }
    q = ggml_view_2d(ctx, q, l.d_k*l.n_head, n_tokens, q->nb[2], 0); // [d_k*n_head, n_tokens]

    if (inp->n_rows > 0) {
        ggml_tensor * rows = ggml_get_rows(ctx, q, inp->row_src); // [d_k*n_head, n_rows]

        ggml_build_forward_expand(g.gf, ggml_set_rows(ctx, l.q_rows, rows, inp->row_dst));
    }

    if (l.q_sum) {
        capkv_build_sum(g, q, inp->sum_sel, l.q_sum);
    }
    if (l.q_cov) {
        capkv_build_cov(g, q, l.d_k, inp->sum_sel, l.q_cov);
    }
}
