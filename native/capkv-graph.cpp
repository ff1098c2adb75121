// the graphs of an eviction: scores of a stream's entries, and the compaction of its cells

#include "capkv-graph.h"

#include "kernels/cholesky.h"
#include "policies/pieces.h"

#include "llama-impl.h"

#include <algorithm>
#include <numeric>

// work memory of a layer's scores at most, in bytes; where one KV head takes more, it takes that
static constexpr size_t CAPKV_WORK_MAX = 32*1024*1024;

// tensors of a policy's graph for one group of heads: at most about 300, when the mean of many rotations is taken
static constexpr int64_t CAPKV_N_NODES = 512;

int64_t capkv_heads_per_group(int64_t n_head_kv, const std::function<size_t(int64_t)> & work) {
    if (n_head_kv == 1 || work(n_head_kv) <= CAPKV_WORK_MAX) {
        return n_head_kv;
    }

    int64_t fits = 1;
    for (int64_t over = n_head_kv; over - fits > 1;) {
        const int64_t mid = (fits + over)/2;
        (work(mid) <= CAPKV_WORK_MAX ? fits : over) = mid;
    }

    // groups of about the same size
    const int64_t n_groups = (n_head_kv + fits - 1)/fits;
    return (n_head_kv + n_groups - 1)/n_groups;
}

size_t capkv_work_size(ggml_cgraph * gf, ggml_backend_buffer_type_t buft) {
    const ggml_gallocr_ptr galloc { ggml_gallocr_new(buft) };

    size_t res = 0;
    ggml_gallocr_reserve_n_size(galloc.get(), gf, nullptr, nullptr, &res);
    return res;
}

static size_t capkv_meta_size(size_t n_nodes) {
    return n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false);
}

capkv_graph_meta::capkv_graph_meta(size_t n_nodes) : buf(new uint8_t[capkv_meta_size(n_nodes)]) {
    ctx.reset(ggml_init({ capkv_meta_size(n_nodes), buf.get(), /*.no_alloc =*/ true }));
}

size_t capkv_n_nodes(const capkv_cache::layer * beg, const capkv_cache::layer * end) {
    size_t n_groups = 0;
    for (const auto * l = beg; l != end; ++l) {
        n_groups += (l->n_head_kv + l->n_group - 1)/l->n_group;
    }
    return (n_groups + 1)*CAPKV_N_NODES;
}

size_t capkv_n_nodes_compact(size_t n_layers) {
    return (n_layers + 1)*CAPKV_N_NODES;
}

// heads [h0, h0 + n_heads) of a stream's cells, as f32: [d, n, n_heads]
//   idx: [n, n_heads]
static ggml_tensor * capkv_build_gather(ggml_context * ctx, ggml_tensor * t, int64_t d, int64_t h0, int64_t n_heads, ggml_tensor * idx) {
    const size_t size = ggml_row_size(t->type, d);

    return ggml_get_rows(ctx, ggml_view_3d(ctx, t, d, t->ne[1], n_heads, t->nb[1], size, h0*size), idx);
}

// filled slots [beg, end): rows of q_rows, in the order of their positions, and those; reserving (nothing is there yet) counts
// with all of them
static std::vector<int32_t> capkv_filled(const capkv_cache::stream & st, int64_t beg, int64_t end, bool reserved, bool sorted) {
    std::vector<int32_t> res;
    for (int64_t j = beg; j < end; ++j) {
        if (st.slots[j].pos >= 0 || !reserved) {
            res.push_back(j);
        }
    }
    if (sorted) {
        std::stable_sort(res.begin(), res.end(), [&](int32_t a, int32_t b) { return st.slots[a].pos < st.slots[b].pos; });
    }
    return res;
}

void capkv_cache::score_queries(capkv_score_ctx & sc, const stream & st, uint32_t s, const layer & l, int64_t head0) const {
    ggml_context * ctx = sc.ctx;

    if (l.q_sum && (st.n_sum > 0 || !reserved)) {
        const float scale = 1.0f/std::max<uint64_t>(st.n_sum, 1);

        ggml_tensor * q = ggml_view_2d(ctx, l.q_sum, l.d_k, sc.n_head, l.d_k*sizeof(float), s*l.q_sum->nb[1] + head0*l.d_k*sizeof(float));
        sc.q_mean = ggml_scale(ctx, q, scale);

        if (l.q_cov) {
            const size_t size = l.d_k*l.d_k*sizeof(float);

            ggml_tensor * c = ggml_view_3d(ctx, l.q_cov, l.d_k, l.d_k, sc.n_head, l.d_k*sizeof(float), size, s*l.q_cov->nb[1] + head0*size);

            ggml_tensor * mean  = ggml_reshape_3d(ctx, sc.q_mean, 1, l.d_k, sc.n_head);
            ggml_tensor * outer = ggml_mul_mat(ctx, mean, mean);
            ggml_prec_set_acc(outer, GGML_PREC_F32);

            sc.q_cov = ggml_sub(ctx, ggml_scale(ctx, c, scale), outer);
        }
    }

    auto rows = [&](int64_t beg, int64_t end, bool sorted) {
        capkv_queries res;

        auto idx = capkv_filled(st, beg, end, reserved, sorted);
        if (!idx.empty()) {
            for (auto & j : idx) {
                res.pos.push_back(std::max(st.slots[j].pos, 0));
                j += s*obs.n_rows();
            }
            ggml_tensor * q = ggml_view_2d(ctx, l.q_rows, l.d_k*sc.n_head, l.q_rows->ne[1], l.q_rows->nb[1], ggml_row_size(obs.type, head0*l.d_k));
            res.q = ggml_reshape_3d(ctx, ggml_get_rows(ctx, q, sc.inputs.add_i32(ctx, idx)), l.d_k, sc.n_head, idx.size());
        }
        return res;
    };

    sc.q_res  = rows(0,         obs.n_res,    false);
    sc.q_last = rows(obs.n_res, obs.n_rows(), true);
}

// the part of the capacity that is measured before anything moves
static ggml_tensor * capkv_build_capacity_all(const capkv_score_ctx & sc, const capkv_weights & weights, ggml_tensor ** w_out) {
    ggml_context * ctx = sc.ctx;

    ggml_tensor * w;
    if (weights.w) {
        w = capkv_build_group_mean(sc, weights.w); // [n, n_head_kv]
        ggml_set_output(w);
        *w_out = w;
        w = weights.eps > 0.0f ? ggml_scale_bias(ctx, w, 1.0f, weights.eps) : w;
        w = ggml_reshape_3d(ctx, w, sc.n, 1, sc.n_head_kv);
    } else {
        w = ggml_fill(ctx, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, sc.n, 1, sc.n_head_kv), 1.0f/sc.n);
        *w_out = nullptr;
    }

    ggml_tensor * m = capkv_build_gram(ctx, sc.on_host, sc.v, w, weights.i0);

    return capkv_build_capacity(ctx, m, capkv_build_ridge(sc, weights.ridge));
}

void capkv_cache::init_groups(const plan & p) {
    for (size_t i = 0; i < layers.size(); ++i) {
        auto & l = layers[i];

        l.n_group = capkv_heads_per_group(l.n_head_kv, [&](int64_t n_heads) {
            l.n_group = n_heads;

            const span part = { i, i + 1 };
            const capkv_graph_meta meta(n_nodes_scores(part));
            capkv_inputs inputs;
            std::vector<score_out> outs;

            return capkv_work_size(build_scores(meta.get(), inputs, p, part, outs), ggml_backend_buffer_get_type(kv.layers[l.ikv].k->buffer));
        });
    }
}

ggml_cgraph * capkv_cache::build_scores(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<score_out> & outs) const {
    const uint32_t s     = p.s;
    const auto   & st    = streams[s];
    const auto   & order = p.order;

    const int64_t n = order.size();

    ggml_cgraph * gf = ggml_new_graph_custom(ctx, n_nodes_scores(part), false);

    // the same entries for every head: a column each, as many as a group has at most
    int64_t n_heads_max = 0;
    for (size_t i = part.beg; i < part.end; ++i) {
        n_heads_max = std::max(n_heads_max, layers[i].n_group);
    }

    std::vector<int32_t> order_heads;
    for (int64_t h = 0; h < n_heads_max; ++h) {
        order_heads.insert(order_heads.end(), order.begin(), order.end());
    }
    ggml_tensor * idx_heads = ggml_reshape_2d(ctx, inputs.add_i32(ctx, order_heads), n, n_heads_max);

    // the Hadamard rotation of a quantized K
    ggml_tensor * rot = nullptr;
    if (kv.attn_rot_k) {
        rot = kv.build_input_k_rot(ctx);

        const auto & data = kv.attn_rot_hadamard.at(rot->ne[0]);
        inputs.items.push_back({ rot, std::vector<uint8_t>((const uint8_t *) data.data(), (const uint8_t *) data.data() + ggml_nbytes(rot)) });
    }

    for (size_t i = part.beg; i < part.end; ++i) {
        const auto & l = layers[i];

        const int64_t r = l.n_head/l.n_head_kv;

        for (int64_t h0 = 0; h0 < l.n_head_kv; h0 += l.n_group) {
            capkv_score_ctx sc(ctx, inputs, params);

            sc.n         = n;
            sc.n_head_kv = std::min(l.n_group, l.n_head_kv - h0);
            sc.n_head    = r*sc.n_head_kv;
            sc.d_k       = l.d_k;
            sc.d_v       = l.d_v;

            ggml_tensor * idx = ggml_view_2d(ctx, idx_heads, n, sc.n_head_kv, idx_heads->nb[1], 0);

            sc.k           = capkv_build_gather(ctx, kv.layers[l.ikv].k_stream[s], l.d_k, h0, sc.n_head_kv, idx);
            sc.v           = capkv_build_gather(ctx, kv.layers[l.ikv].v_stream[s], l.d_v, h0, sc.n_head_kv, idx);
            sc.on_host     = ggml_backend_buffer_is_host(kv.layers[l.ikv].k->buffer);
            sc.rope        = &l.rope;
            sc.k_rot       = [&](ggml_tensor * t) { return rot ? llama_mul_mat_hadamard(ctx, t, rot) : t; };
            sc.kq_scale    = l.kq_scale;
            sc.next_pos    = kv.v_cells[s].pos_get(order.back()) + 1;
            sc.il          = l.il;
            sc.head_kv0    = h0;
            sc.n_evictions = st.n_evictions;

            sc.positions = [&, h0, n_heads = sc.n_head_kv]() {
                std::vector<int32_t> res;
                for (int64_t h = h0; h < h0 + n_heads; ++h) {
                    for (const int32_t cell : order) {
                        // reserving takes in cells that are empty
                        res.push_back(kv.v_cells[s].is_empty(cell) ? cell : cell_pos(s, l, h, cell));
                    }
                }
                return res;
            };

            score_queries(sc, st, s, l, h0*r);

            const auto [score, weights] = policy.score(sc);

            score_out out = { i, h0, score, nullptr, nullptr, weights.eps, weights.i0 };
            GGML_ASSERT(out.score->type == GGML_TYPE_F32 && out.score->ne[0] == n && ggml_nelements(out.score) == n*sc.n_head_kv);

            out.cap = capkv_build_capacity_all(sc, weights, &out.w);

            for (auto * t : { out.score, out.cap }) {
                ggml_set_output(t);
                ggml_build_forward_expand(gf, t);
            }
            outs.push_back(out);
        }
    }

    return gf;
}

ggml_cgraph * capkv_cache::build_compact(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<ggml_tensor *> & caps) const {
    ggml_cgraph * gf = ggml_new_graph_custom(ctx, capkv_n_nodes_compact(part.end - part.beg), false);

    const int64_t n = p.n_target;

    // the first n cells, in their order
    std::vector<int64_t> cells(n);
    std::iota(cells.begin(), cells.end(), 0);
    ggml_tensor * to = inputs.add_i64(ctx, cells);

    for (size_t i = part.beg; i < part.end; ++i) {
        const auto & l   = layers[i];
        const auto & kvl = kv.layers[l.ikv];

        // row of (cell, head) that goes to each (cell, head)
        std::vector<int32_t> rows(n*l.n_head_kv);
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t h = 0; h < l.n_head_kv; ++h) {
                rows[j*l.n_head_kv + h] = p.order[p.keep[i][h*n + j]]*l.n_head_kv + h;
            }
        }
        ggml_tensor * idx = inputs.add_i32(ctx, rows);

        // f32 in between: each type comes back as it was. They are stored as llama_kv_cache::cpy_k() and cpy_v() do, which is
        // what a backend that holds a cache can do with every type that it may have
        auto move = [&](ggml_tensor * t, int64_t d) {
            ggml_tensor * cur = ggml_reshape_2d(ctx, t, d, l.n_head_kv*t->ne[1]);

            cur = ggml_get_rows(ctx, cur, idx); // F32 [d, n*n_head_kv]

            ggml_build_forward_expand(gf, ggml_set_rows(ctx, t, ggml_reshape_2d(ctx, cur, d*l.n_head_kv, n), to));

            return cur;
        };

        move(kvl.k_stream[p.s], l.d_k);
        ggml_tensor * v = move(kvl.v_stream[p.s], l.d_v);

        v = ggml_cont(ctx, ggml_permute(ctx, ggml_reshape_3d(ctx, v, l.d_v, l.n_head_kv, n), 0, 2, 1, 3)); // [d_v, n, n_head_kv]

        ggml_tensor * w = ggml_reshape_3d(ctx, inputs.add_f32(ctx, p.w[i], n, l.n_head_kv), n, 1, l.n_head_kv);
        ggml_tensor * m = capkv_build_gram(ctx, ggml_backend_buffer_is_host(kvl.v->buffer), v, w, 0);

        caps.push_back(capkv_build_capacity(ctx, m, inputs.add_f32(ctx, p.ridge[i], 2, l.n_head_kv)));
        ggml_set_output(caps.back());
        ggml_build_forward_expand(gf, caps.back());
    }

    return gf;
}
