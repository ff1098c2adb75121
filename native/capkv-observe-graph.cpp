// nodes that observe the queries: in the graph of each batch, and those that an eviction reads back

#include "capkv-observe.h"

#include "capkv-memory.h"

#include "llama-graph.h"
#include "llama-impl.h"

#include <algorithm>
#include <cstring>

// a graph with rows for sampled queries is kept for so many batches without one: to build a graph costs about as much as to compute
// its rows eight times
static constexpr int CAPKV_N_IDLE = 8;

// tells a graph which tokens of its batch are taken. A graph that takes none has this input too: it has to refuse a batch that takes some
class capkv_graph_input : public llm_graph_input_i {
public:
    capkv_graph_input(capkv_observer & observer, ggml_backend_sched_t sched, size_t n_rows, bool warmup) :
        observer(observer), sched(sched), n_rows(n_rows), warmup(warmup) {}

    void set_input(const llama_ubatch * ubatch) override {
        const auto plan = observer.make_plan(*ubatch, warmup);

        GGML_ASSERT(plan.rows.size() <= n_rows);

        std::vector<int32_t> src(n_rows, 0);
        std::vector<int64_t> dst(n_rows);

        for (size_t i = 0; i < n_rows; ++i) {
            if (i < plan.rows.size()) {
                src[i] = plan.rows[i].i;
                dst[i] = plan.rows[i].dst;
            } else {
                dst[i] = observer.scratch_row(i);
            }
        }
        n_idle = plan.rows.empty() ? n_idle + 1 : 0;

        // commit() clears the sums of a sequence that begins: wait for the batch before, which may still write to them
        if (observer.clears_sums(plan)) {
            ggml_backend_sched_synchronize(sched);
        }

        if (row_src) { ggml_backend_tensor_set(row_src, src.data(),      0, ggml_nbytes(row_src)); }
        if (row_dst) { ggml_backend_tensor_set(row_dst, dst.data(),      0, ggml_nbytes(row_dst)); }
        if (sum_sel) { ggml_backend_tensor_set(sum_sel, plan.sum.data(), 0, ggml_nbytes(sum_sel)); }

        observer.commit(plan);
    }

    bool can_reuse(const llm_graph_params & params) override {
        warmup = params.cparams.warmup;

        const size_t n = observer.make_plan(params.ubatch, warmup).rows.size();

        return n == n_rows || (n < n_rows && n_rows <= observer.n_scratch() && (n > 0 || n_idle < CAPKV_N_IDLE));
    }

    ggml_tensor * row_src = nullptr; // I32 [n_rows]
    ggml_tensor * row_dst = nullptr; // I64 [n_rows]
    ggml_tensor * sum_sel = nullptr; // F32 [n_tokens, n_stream]

    capkv_observer & observer;

    ggml_backend_sched_t sched; // of the batches

    const size_t n_rows; // rows that this batch does not need go to scratch rows
    bool warmup;
    int  n_idle = 0;     // the last so many batches took no row
};

static capkv_graph_input * capkv_find_input(const llm_graph_context & g, const capkv_observer & observer) {
    for (auto & inp : g.res->inputs) {
        auto * res = dynamic_cast<capkv_graph_input *>(inp.get());
        if (res && &res->observer == &observer) {
            return res;
        }
    }
    return nullptr;
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
        ggml_tensor * cov_s = ggml_view_2d(ctx, cov, d*d, qt->ne[2], d*d*sizeof(float), s*cov->nb[1]); // a row is added by one thread or group of them

        ggml_tensor * cur = ggml_mul_mat(ctx, qt, ggml_mul(ctx, qt, sel_s)); // [d, d, n_head]
        ggml_prec_set_acc(cur, GGML_PREC_F32);

        cur = ggml_add(ctx, cov_s, ggml_reshape_2d(ctx, cur, d*d, qt->ne[2]));
        ggml_build_forward_expand(g.gf, ggml_cpy(ctx, cur, cov_s));
    }
}

uint32_t capkv_observer::n_nodes() const {
    uint32_t n = 4; // norm, factor, cont, view
    if (obs.n_rows() > 0) {
        n += 2;
    }
    if (obs.mean) {
        n += 5; // capkv_build_sum()
    }
    if (obs.cov) {
        n += 3 + 7*streams.size(); // capkv_build_cov()
    }
    return obs.any() ? layers.size()*n + 3 : 0; // 3 inputs
}

void capkv_observer::build(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, ggml_tensor * k_cur, float kq_scale, int il) {
    if (k_cur) {
        key_ropes.see(k_cur, il);
    }

    const capkv_layer * found = capkv_find_layer(layers, il);

    // a layer with a sliding window, or one that reuses the cells of another layer
    if (!found) {
        return;
    }

    const capkv_layer & l = *found;
    layer & seen = layers_obs[l.i];

    capkv_after_rope after;
    ggml_tensor * rope = capkv_find_rope(q_cur, after);
    ggml_tensor * q    = rope ? rope->src[0] : q_cur; // [d_k, n_head, n_tokens] before RoPE

    seen.observed = true;
    seen.kq_scale = rope ? kq_scale*after.scale : kq_scale;
    seen.rope     = capkv_read_rope(rope, after);

    if (!obs.any()) {
        return;
    }

    GGML_ASSERT(q->ne[0] == l.d_k && q->ne[1] == l.n_head && q->type == GGML_TYPE_F32);

    ggml_context * ctx = g.ctx0;

    const int64_t n_tokens = q->ne[2];
    const int64_t n_stream = streams.size();

    auto * inp = capkv_find_input(g, *this);

    if (!inp) {
        // a graph that is only reserved has no batch yet: take the most that a batch can
        const bool   reserve = capkv_memory::is_reserve(mctx);
        const size_t n_rows  = reserve ?
            std::min<size_t>(n_tokens*obs.n_rows_per_token(), obs.n_rows()*n_stream) :
            pad_rows(make_plan(g.ubatch, g.cparams.warmup).rows.size());

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

    // the norm and the factor of each token or head give the same before the rotation as after it
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

        ggml_build_forward_expand(g.gf, ggml_set_rows(ctx, seen.q_rows, rows, inp->row_dst));
    }

    if (seen.q_sum) {
        capkv_build_sum(g, q, inp->sum_sel, seen.q_sum);
    }
    if (seen.q_cov) {
        capkv_build_cov(g, q, l.d_k, inp->sum_sel, seen.q_cov);
    }
}

//
// the graph of an eviction
//

// those of a stream's rows [beg, end) that hold a query, or all of them; sorted by position if asked for
static std::vector<int32_t> capkv_filled_rows(const capkv_observer::stream & st, int64_t beg, int64_t end, bool all, bool sorted) {
    std::vector<int32_t> res;
    for (int64_t j = beg; j < end; ++j) {
        if (st.rows[j].pos >= 0 || all) {
            res.push_back(j);
        }
    }
    if (sorted) {
        std::stable_sort(res.begin(), res.end(), [&](int32_t a, int32_t b) { return st.rows[a].pos < st.rows[b].pos; });
    }
    return res;
}

// how many tokens of a known question come before one of it
static int32_t capkv_focus_rank(const capkv_observer::stream & st, const capkv_observer::row & row) {
    return std::count_if(st.rows.begin(), st.rows.end(), [&](const capkv_observer::row & cur) { return cur.is_focus() && cur.pos < row.pos; });
}

void capkv_observer::add_queries(capkv_score_ctx & sc, uint32_t s, const capkv_layer & l, int64_t head0, bool all) const {
    ggml_context * ctx = sc.ctx;

    const auto & st   = streams[s];
    const auto & seen = layers_obs[l.i];

    if (seen.q_sum && (st.n_sum > 0 || all)) {
        const float scale = 1.0f/std::max<uint64_t>(st.n_sum, 1);

        ggml_tensor * q = ggml_view_2d(ctx, seen.q_sum, l.d_k, sc.n_head, l.d_k*sizeof(float), s*seen.q_sum->nb[1] + head0*l.d_k*sizeof(float));
        sc.q_mean = ggml_scale(ctx, q, scale);

        if (seen.q_cov) {
            const size_t size = l.d_k*l.d_k*sizeof(float);

            ggml_tensor * c = ggml_view_3d(ctx, seen.q_cov, l.d_k, l.d_k, sc.n_head, l.d_k*sizeof(float), size, s*seen.q_cov->nb[1] + head0*size);

            ggml_tensor * mean  = ggml_reshape_3d(ctx, sc.q_mean, 1, l.d_k, sc.n_head);
            ggml_tensor * outer = ggml_mul_mat(ctx, mean, mean);
            ggml_prec_set_acc(outer, GGML_PREC_F32);

            sc.q_cov = ggml_sub(ctx, ggml_scale(ctx, c, scale), outer);
        }
    }

    auto rows = [&](int64_t beg, int64_t end, bool sorted) {
        capkv_queries res;

        auto idx = capkv_filled_rows(st, beg, end, all, sorted);
        if (!idx.empty()) {
            for (auto & j : idx) {
                res.pos.push_back(st.rows[j].is_focus() ? sc.next_pos + capkv_focus_rank(st, st.rows[j]) : std::max(st.rows[j].pos, 0));
                j += s*obs.n_rows();
            }
            ggml_tensor * q = ggml_view_2d(ctx, seen.q_rows, l.d_k*sc.n_head, seen.q_rows->ne[1], seen.q_rows->nb[1], ggml_row_size(obs.type, head0*l.d_k));
            res.q = ggml_reshape_3d(ctx, ggml_get_rows(ctx, q, sc.inputs.add_i32(ctx, idx)), l.d_k, sc.n_head, idx.size());
        }
        return res;
    };

    sc.q_res  = rows(0,         obs.n_res,    false);
    sc.q_last = rows(obs.n_res, obs.n_rows(), true);
}
