// the graphs of an eviction: scores of a stream's entries, and the compaction of its cells

#include "capkv-graph.h"

#include "capkv-evict.h"
#include "kernels/dequantize.h"
#include "policies/pieces.h"

#include "llama-impl.h"

#include <algorithm>
#include <numeric>

// a bound on the tensors of a policy's graph for one group of heads; capkv_build_mean_rotation() takes the most, about 300
static constexpr int64_t CAPKV_N_NODES = 512;

static size_t capkv_meta_size(size_t n_nodes) {
    return n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false);
}

capkv_graph_meta::capkv_graph_meta(size_t n_nodes) : buf(new uint8_t[capkv_meta_size(n_nodes)]) {
    ctx.reset(ggml_init({ capkv_meta_size(n_nodes), buf.get(), /*.no_alloc =*/ true }));
}

size_t capkv_evictor::n_nodes(const span & part, const std::vector<int64_t> & n_group) const {
    size_t n_groups = 0;
    for (size_t i = part.beg; i < part.end; ++i) {
        n_groups += (layers[i].n_head_kv + n_group[i] - 1)/n_group[i]*((kv.get_size() + n_tile[i] - 1)/n_tile[i]);
    }
    return (n_groups + 1)*CAPKV_N_NODES;
}

bool capkv_evictor::on_host(const capkv_layer & l) const {
    return ggml_backend_buffer_is_host(kv.layers[l.ikv].k->buffer);
}

bool capkv_evictor::on_host(const span & part) const {
    return std::all_of(layers.begin() + part.beg, layers.begin() + part.end, [&](const capkv_layer & l) { return on_host(l); });
}

ggml_status capkv_evictor::compute(
        llama_context * lctx, span & part, size_t n_nodes, capkv_outputs & outputs, const std::function<ggml_cgraph *(ggml_context *, capkv_inputs &)> & f) {
    auto meta = std::move(part.meta);
    if (meta) {
        meta->reset();
    } else {
        meta = std::make_unique<capkv_graph_meta>(n_nodes);
    }

    capkv_inputs inputs;

    const auto res = sched.compute(lctx, f(meta->get(), inputs), inputs, outputs);

    if (!on_host(part)) {
        part.meta = std::move(meta);
    }
    return res;
}

ggml_backend_buffer_type_t capkv_input_buft(const ggml_tensor * t) {
    return ggml_backend_buffer_is_host(t->buffer) ? nullptr : ggml_backend_buffer_get_type(t->buffer);
}

// rows of a view x of the cells, as f32
static ggml_tensor * capkv_build_rows(ggml_context * ctx, const ggml_tensor * cells, ggml_tensor * x, ggml_tensor * idx) {
    return ggml_backend_buffer_is_host(cells->buffer) ? capkv_build_get_rows(ctx, x, idx) : ggml_get_rows(ctx, x, idx);
}

// K or V of heads [h0, h0 + n_heads) of a stream, as f32: [d, n, n_heads]
//   idx: [n, n_heads]
static ggml_tensor * capkv_build_gather(ggml_context * ctx, ggml_tensor * t, int64_t d, int64_t h0, int64_t n_heads, ggml_tensor * idx) {
    const size_t size = ggml_row_size(t->type, d);

    ggml_tensor * x = ggml_view_3d(ctx, t, d, t->ne[1], n_heads, t->nb[1], size, h0*size);

    return capkv_build_rows(ctx, t, x, idx);
}

// what the capacity of all entries is computed from, while they are all there: [d_v, d_v, n_head_kv]
//   w_out: the weights without eps, [n, n_head_kv]; NULL if all are equal
static ggml_tensor * capkv_build_capacity_sum(const capkv_score_ctx & sc, const capkv_weights & weights, ggml_tensor ** w_out) {
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

    return capkv_build_gram(sc, sc.v, w, weights.i0);
}

ggml_tensor * capkv_evictor::build_k_rot(ggml_context * ctx, capkv_inputs & inputs, const llama_kv_cache & kv) {
    if (!kv.attn_rot_k) {
        return nullptr;
    }

    ggml_tensor * rot = kv.build_input_k_rot(ctx);

    return inputs.add(rot, kv.attn_rot_hadamard.at(rot->ne[0]).data());
}

ggml_cgraph * capkv_evictor::build_scores(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<score_out> & outs) const {
    const uint32_t s     = p.s;
    const auto   & cells = kv.get_cells(s);
    const auto   & order = p.order;

    const int64_t n = order.size();

    ggml_cgraph * gf = ggml_new_graph_custom(ctx, n_nodes_scores(part), false);

    // every head has the same entries: one column of indices for each head of the largest group
    int64_t n_heads_max = 0;
    for (size_t i = part.beg; i < part.end; ++i) {
        n_heads_max = std::max(n_heads_max, n_group[i]);
    }

    std::vector<int32_t> order_heads;
    for (int64_t h = 0; h < n_heads_max; ++h) {
        order_heads.insert(order_heads.end(), order.begin(), order.end());
    }
    for (size_t i = part.beg; i < part.end; i += n_merge[i]) {
        const auto & l    = layers[i]; // those that are scored with it are like it
        const auto & seen = observer.of(l);

        const size_t  n_layers = std::min(n_merge[i], part.end - i);
        const int64_t r        = l.n_head/l.n_head_kv;

        inputs.buft = capkv_input_buft(kv.layers[l.ikv].k);

        ggml_tensor * idx_heads = ggml_reshape_2d(ctx, inputs.add_i32(ctx, order_heads), n, n_heads_max);
        ggml_tensor * rot       = build_k_rot(ctx, inputs, kv);

        for (int64_t h0 = 0; h0 < l.n_head_kv; h0 += n_group[i]) {
            capkv_score_ctx sc(ctx, inputs, params);

            const int64_t n_heads = std::min(n_group[i], l.n_head_kv - h0); // of each layer

            sc.n         = n;
            sc.n_head_kv = n_heads*n_layers;
            sc.n_head    = r*sc.n_head_kv;
            sc.d_k       = l.d_k;
            sc.d_v       = l.d_v;
            sc.n_tile    = n_tile[i];

            // the cells are read anew for each tile; where one tile holds all entries, once
            auto entries = [&](int64_t d, auto && cells_of) -> capkv_entries {
                auto all = std::make_shared<ggml_tensor *>(nullptr);

                return [=](int64_t i0, int64_t n_part) {
                    if (n_part == n && *all) {
                        return *all;
                    }
                    ggml_tensor * idx = ggml_view_2d(ctx, idx_heads, n_part, n_heads, idx_heads->nb[1], i0*idx_heads->nb[0]);

                    std::vector<ggml_tensor *> parts;
                    for (size_t j = i; j < i + n_layers; ++j) {
                        parts.push_back(capkv_build_gather(ctx, cells_of(kv.layers[layers[j].ikv]), d, h0, n_heads, idx));
                    }
                    ggml_tensor * res = capkv_build_join(ctx, std::move(parts), 2);
                    *all = n_part == n ? res : nullptr;
                    return res;
                };
            };
            sc.k = entries(l.d_k, [s](const auto & kvl) { return kvl.k_stream[s]; });
            sc.v = entries(l.d_v, [s](const auto & kvl) { return kvl.v_stream[s]; });

            sc.next_pos = cells.pos_get(order.back()) + 1;

            std::vector<ggml_tensor *> q_mean, q_cov, q_res, q_last;
            for (size_t j = i; j < i + n_layers; ++j) {
                capkv_score_ctx one(ctx, inputs, params);
                one.n_head   = r*n_heads;
                one.next_pos = sc.next_pos;
                observer.add_queries(one, s, layers[j], h0*r, /*all =*/ !reserved);

                q_mean.push_back(one.q_mean);
                q_cov .push_back(one.q_cov);
                q_res .push_back(one.q_res .q);
                q_last.push_back(one.q_last.q);
                sc.q_res .pos = one.q_res .pos;
                sc.q_last.pos = one.q_last.pos;

                for (int64_t h = h0; h < h0 + n_heads; ++h) {
                    sc.heads.push_back({ (int32_t) layers[j].il, h });
                }
            }
            sc.q_mean   = capkv_build_join(ctx, q_mean, 1);
            sc.q_cov    = capkv_build_join(ctx, q_cov,  2);
            sc.q_res .q = capkv_build_join(ctx, q_res,  1);
            sc.q_last.q = capkv_build_join(ctx, q_last, 1);

            sc.on_host     = on_host(l);
            sc.rope        = &seen.rope;
            sc.k_rot       = [&](ggml_tensor * t) { return rot ? llama_mul_mat_hadamard(ctx, t, rot) : t; };
            sc.kq_scale    = seen.kq_scale;
            sc.n_evictions = streams[s].n_evictions;

            auto each_entry = [&](auto && pos_of) {
                std::vector<int32_t> res;
                for (const auto & head : sc.heads) {
                    const auto & layer = *capkv_find_layer(layers, head.il);
                    for (const int32_t cell : order) {
                        // reserve() counts with empty cells too
                        res.push_back(cells.is_empty(cell) ? cell : pos_of(layer, head.i, cell));
                    }
                }
                return res;
            };
            sc.positions      = [&]() { return each_entry([&](auto & layer, int64_t h, int32_t cell) { return positions.at     (cells, s, layer, h, cell); }); };
            sc.rope_positions = [&]() { return each_entry([&](auto & layer, int64_t h, int32_t cell) { return positions.rope_at(cells, s, layer, h, cell); }); };
            sc.pos_offset     = positions.get(s).offset;

            const auto [score, weights] = policy.score(sc);

            score_out out = { i, n_layers, h0, score, nullptr, nullptr, weights };
            GGML_ASSERT(out.score->type == GGML_TYPE_F32 && out.score->ne[0] == n && ggml_nelements(out.score) == n*sc.n_head_kv);

            out.sum = capkv_build_capacity_sum(sc, weights, &out.w);

            for (auto * t : { out.score, out.sum }) {
                ggml_set_output(t);
                ggml_build_forward_expand(gf, t);
            }
            outs.push_back(out);
        }
    }

    return gf;
}

ggml_cgraph * capkv_evictor::build_compact(ggml_context * ctx, capkv_inputs & inputs, const plan & p, const span & part, std::vector<ggml_tensor *> & sums) const {
    ggml_cgraph * gf = ggml_new_graph_custom(ctx, n_nodes_compact(part), false);

    // where only memory is reserved, as many entries may stay as may go
    const bool    to_reserve = p.pos.empty();
    const int64_t n          = p.n_target();
    const int64_t n_dropped  = to_reserve && p.n_dropped() == 0 ? p.order.size() : p.n_dropped();

    for (size_t i = part.beg; i < part.end; ++i) {
        const auto & l   = layers[i];
        const auto & kvl = kv.layers[l.ikv];

        inputs.buft = capkv_input_buft(kvl.k);

        ggml_tensor * rot = p.parts.reindex ? build_k_rot(ctx, inputs, kv) : nullptr;

        for (int64_t h0 = 0; h0 < l.n_head_kv; h0 += n_group_compact[i]) {
            const int64_t n_heads = std::min(n_group_compact[i], l.n_head_kv - h0);

            // a row is what a cell holds of a head: the entries that stay go to the rows of the first n cells
            std::vector<int32_t> from;
            std::vector<int64_t> to;
            std::vector<int32_t> dropped; // cells
            for (int64_t h = h0; h < h0 + n_heads; ++h) {
                const auto kept = to_reserve ? p.order : p.keep[i].kept(h);
                for (int64_t j = 0; j < n; ++j) {
                    from.push_back((to_reserve ? kept[j] : p.order[kept[j]])*l.n_head_kv + h);
                    to  .push_back(j*l.n_head_kv + h);
                }
                const auto gone = to_reserve ? p.order : p.keep[i].dropped(h);
                for (int64_t j = 0; j < n_dropped; ++j) {
                    dropped.push_back(to_reserve ? gone[j] : p.order[gone[j]]);
                }
            }

            // what the capacity loses, before the cells are written to
            if (n_dropped > 0) {
                ggml_tensor * idx = ggml_reshape_2d(ctx, inputs.add_i32(ctx, dropped), n_dropped, n_heads);

                capkv_score_ctx sc(ctx, inputs, params);
                sc.n         = n_dropped;
                sc.n_head_kv = sc.n_head = n_heads;
                sc.on_host   = on_host(l);
                sc.n_tile    = n_tile[i];

                std::vector<float> w(n_dropped*n_heads, 0.0f);
                if (!to_reserve) {
                    std::copy_n(p.w_dropped[i].begin() + h0*n_dropped, w.size(), w.begin());
                }
                sums.push_back(capkv_build_gram(sc, [&](int64_t i0, int64_t n_part) {
                    return capkv_build_gather(ctx, kvl.v_stream[p.s], l.d_v, h0, n_heads, ggml_view_2d(ctx, idx, n_part, n_heads, idx->nb[1], i0*idx->nb[0]));
                }, ggml_reshape_3d(ctx, inputs.add_f32(ctx, w, n_dropped, n_heads), n_dropped, 1, n_heads), 0));

                ggml_set_output(sums.back());
                ggml_build_forward_expand(gf, sums.back());
            }

            ggml_tensor * idx_from = inputs.add_i32(ctx, from);
            ggml_tensor * idx_to   = inputs.add_i64(ctx, to);

            // through f32, which gives every type back as it was. Stored by ggml_set_rows(), as llama_kv_cache::cpy_k() and cpy_v() do: a
            // backend that holds a cache has it for every type of cache
            auto move = [&](ggml_tensor * t, int64_t d, const capkv_rope * rope) {
                ggml_tensor * rows = ggml_reshape_2d(ctx, t, d, l.n_head_kv*t->ne[1]);

                ggml_tensor * cur = capkv_build_rows(ctx, t, rows, idx_from); // F32 [d, n*n_heads]

                if (rope && rope->on) {
                    cur = build_key_shift(ctx, inputs, *rope, ggml_reshape_3d(ctx, cur, d, 1, n*n_heads), rot, key_shifts(p, l, h0, n_heads));
                    cur = ggml_reshape_2d(ctx, cur, d, n*n_heads);
                }

                ggml_build_forward_expand(gf, ggml_set_rows(ctx, rows, cur, idx_to));
            };

            move(kvl.k_stream[p.s], l.d_k, p.parts.reindex ? observer.get_key_ropes().find(l.il) : nullptr);
            move(kvl.v_stream[p.s], l.d_v, nullptr);
        }
    }

    return gf;
}
