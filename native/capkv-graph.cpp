// the graphs of an eviction: scores of a stream's entries, and the compaction of its cells

#include "capkv-graph.h"

#include "llama-impl.h"

#include <algorithm>

// work of a layer's scores at most; policies tell what they hold per entry and query head
static constexpr int64_t CAPKV_WORK_MAX = 32*1024*1024;

// tensors of a policy's graph for one group of heads: at most about 185, when every sum halves an odd number of rows
static constexpr int64_t CAPKV_N_NODES = 256;

int64_t capkv_heads_per_group(const capkv_policy & policy, int64_t n, int64_t n_head, int64_t n_head_kv, int64_t d_k, int64_t d_v) {
    const int64_t r    = n_head/n_head_kv;
    const int64_t work = n*(r*policy.work(d_k, d_v) + 2*(d_k + d_v))*sizeof(float);

    return std::clamp<int64_t>(CAPKV_WORK_MAX/std::max<int64_t>(work, 1), 1, n_head_kv);
}

ggml_context_ptr capkv_graph_init(std::vector<uint8_t> & buf, size_t n_nodes) {
    const size_t size = n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false);

    if (buf.size() < size) {
        buf.resize(size);
    }

    ggml_init_params init = { buf.size(), buf.data(), /*.no_alloc =*/ true };

    return ggml_context_ptr { ggml_init(init) };
}

size_t capkv_n_nodes(const capkv_policy & policy, const std::vector<capkv_cache::layer> & layers, int64_t n) {
    size_t n_groups = 0;
    for (const auto & l : layers) {
        const int64_t g = capkv_heads_per_group(policy, n, l.n_head, l.n_head_kv, l.d_k, l.d_v);
        n_groups += (l.n_head_kv + g - 1)/g;
    }
    return (n_groups + 1)*CAPKV_N_NODES;
}

size_t capkv_n_nodes_compact(const std::vector<capkv_cache::layer> & layers) {
    return (layers.size() + 1)*CAPKV_N_NODES;
}

// heads [h0, h0 + n_heads) of a stream's cells, as f32: [d, n, n_heads]
//   idx: [n, n_heads]
static ggml_tensor * capkv_build_gather(ggml_context * ctx, ggml_tensor * t, int64_t d, int64_t h0, int64_t n_heads, ggml_tensor * idx) {
    const size_t size = ggml_row_size(t->type, d);

    return ggml_get_rows(ctx, ggml_view_3d(ctx, t, d, t->ne[1], n_heads, t->nb[1], size, h0*size), idx);
}

ggml_cgraph * capkv_cache::build_scores(ggml_context * ctx, capkv_inputs & inputs, uint32_t s, const std::vector<int32_t> & order, std::vector<score_out> & outs) const {
    const auto & st = streams[s];

    const int64_t n = order.size();

    ggml_cgraph * gf = ggml_new_graph_custom(ctx, capkv_n_nodes(policy, layers, n), false);

    // the same entries for every head: a column each, as many as a group has at most
    int64_t n_heads_max = 0;
    for (const auto & l : layers) {
        n_heads_max = std::max(n_heads_max, capkv_heads_per_group(policy, n, l.n_head, l.n_head_kv, l.d_k, l.d_v));
    }

    std::vector<int32_t> order_heads;
    for (int64_t h = 0; h < n_heads_max; ++h) {
        order_heads.insert(order_heads.end(), order.begin(), order.end());
    }
    ggml_tensor * idx_heads = ggml_reshape_2d(ctx, inputs.add_i32(ctx, order_heads), n, n_heads_max);

    // filled slots of the reservoir; reserving (nothing is there yet) counts with all of them
    std::vector<int32_t> slots;
    for (int32_t j = 0; j < (int32_t) st.res.size(); ++j) {
        if (st.res[j].pos >= 0 || !reserved) {
            slots.push_back(s*CAPKV_N_RES + j);
        }
    }
    ggml_tensor * idx_res = slots.empty() ? nullptr : inputs.add_i32(ctx, slots);

    // the Hadamard rotation of a quantized K
    ggml_tensor * rot = nullptr;
    if (kv.attn_rot_k) {
        rot = kv.build_input_k_rot(ctx);

        const auto & data = kv.attn_rot_hadamard.at(rot->ne[0]);
        inputs.items.push_back({ rot, std::vector<uint8_t>((const uint8_t *) data.data(), (const uint8_t *) data.data() + ggml_nbytes(rot)) });
    }

    for (size_t i = 0; i < layers.size(); ++i) {
        const auto & l = layers[i];

        const int64_t r  = l.n_head/l.n_head_kv;
        const int64_t ng = capkv_heads_per_group(policy, n, l.n_head, l.n_head_kv, l.d_k, l.d_v);

        for (int64_t h0 = 0; h0 < l.n_head_kv; h0 += ng) {
            capkv_score_ctx sc = { ctx, inputs, params };

            sc.n           = n;
            sc.n_head_kv   = std::min(ng, l.n_head_kv - h0);
            sc.n_head      = r*sc.n_head_kv;
            sc.d_k         = l.d_k;
            sc.d_v         = l.d_v;
            ggml_tensor * idx = ggml_view_2d(ctx, idx_heads, n, sc.n_head_kv, idx_heads->nb[1], 0);

            sc.k           = capkv_build_gather(ctx, kv.layers[l.ikv].k_stream[s], l.d_k, h0, sc.n_head_kv, idx);
            sc.v           = capkv_build_gather(ctx, kv.layers[l.ikv].v_stream[s], l.d_v, h0, sc.n_head_kv, idx);
            sc.on_host     = ggml_backend_buffer_is_host(kv.layers[l.ikv].k->buffer);
            sc.q_mean      = nullptr;
            sc.q_res       = nullptr;
            sc.rope        = &l.rope;
            sc.k_rot       = [&](ggml_tensor * t) { return rot ? llama_mul_mat_hadamard(ctx, t, rot) : t; };
            sc.kq_scale    = l.kq_scale;
            sc.next_pos    = kv.v_cells[s].pos_get(order.back()) + 1;
            sc.il          = l.il;
            sc.head_kv0    = h0;
            sc.n_evictions = st.n_evictions;

            if (l.q_sum && (st.n_sum > 0 || !reserved)) {
                ggml_tensor * q = ggml_view_2d(ctx, l.q_sum, l.d_k, sc.n_head, l.d_k*sizeof(float), s*l.q_sum->nb[1] + h0*r*l.d_k*sizeof(float));
                sc.q_mean = ggml_scale(ctx, q, 1.0f/std::max<uint64_t>(st.n_sum, 1));
            }
            if (l.q_res && idx_res) {
                ggml_tensor * q = ggml_view_2d(ctx, l.q_res, l.d_k*sc.n_head, l.q_res->ne[1], l.q_res->nb[1], h0*r*l.d_k*sizeof(ggml_fp16_t));
                sc.q_res = ggml_reshape_3d(ctx, ggml_get_rows(ctx, q, idx_res), l.d_k, sc.n_head, idx_res->ne[0]);
            }

            ggml_tensor * score = policy.score(sc);
            GGML_ASSERT(score->type == GGML_TYPE_F32 && score->ne[0] == n && ggml_nelements(score) == n*sc.n_head_kv);

            ggml_set_output(score);
            ggml_build_forward_expand(gf, score);

            outs.push_back({ i, h0, score });
        }
    }

    return gf;
}

// rows: per layer [n_target*n_head_kv] row of (cell, head) that goes to each (cell, head)
ggml_cgraph * capkv_cache::build_compact(ggml_context * ctx, capkv_inputs & inputs, uint32_t s, const std::vector<std::vector<int32_t>> & rows) const {
    ggml_cgraph * gf = ggml_new_graph_custom(ctx, capkv_n_nodes_compact(layers), false);

    for (size_t i = 0; i < layers.size(); ++i) {
        const auto & l = layers[i];

        ggml_tensor * idx = inputs.add_i32(ctx, rows[i]);

        // f32 in between: each type comes back as it was
        auto move = [&](ggml_tensor * t, int64_t d) {
            ggml_tensor * cur = ggml_reshape_2d(ctx, t, d, l.n_head_kv*t->ne[1]);

            cur = ggml_get_rows(ctx, cur, idx); // F32 [d, n_target*n_head_kv]
            cur = ggml_reshape_2d(ctx, cur, d*l.n_head_kv, idx->ne[0]/l.n_head_kv);

            ggml_build_forward_expand(gf, ggml_cpy(ctx, cur, ggml_view_2d(ctx, t, t->ne[0], cur->ne[1], t->nb[1], 0)));
        };

        move(kv.layers[l.ikv].k_stream[s], l.d_k);
        move(kv.layers[l.ikv].v_stream[s], l.d_v);
    }

    return gf;
}
