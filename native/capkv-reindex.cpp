// new RoPE positions: when a sequence gets them, and the graphs that rotate its keys

#include "capkv-evict.h"

#include "capkv-error.h"
#include "capkv-graph.h"

#include "llama-impl.h"

#include <algorithm>
#include <numeric>

// layers with sliding windows whose keys are rotated in one graph, and a bound on the tensors of each
static constexpr size_t CAPKV_N_LAYERS_SHIFT = 16;
static constexpr size_t CAPKV_N_NODES_SHIFT  = 32;

bool capkv_evictor::find_key_ropes(llama_kv_cache * kv_swa) {
    this->kv_swa = kv_swa;

    const auto & ropes = observer.get_key_ropes();

    // the queries of a layer are rotated where its keys are: if only one of the two was found, the other is hidden
    can_reindex = std::all_of(layers.begin(), layers.end(), [&](const capkv_layer & l) {
        const auto * rope = ropes.find(l.il);
        return rope && rope->on == observer.of(l).rope.on;
    });

    for (size_t i = 0; kv_swa && i < kv_swa->layers.size(); ++i) {
        can_reindex = can_reindex && ropes.find(kv_swa->layers[i].il);
    }
    return can_reindex;
}

bool capkv_evictor::has_rope_positions(const std::vector<llama_ubatch> & ubatches) {
    if (params.reindex == CAPKV_REINDEX_NEVER || !can_reindex) {
        return true;
    }

    std::vector<llama_pos> pos_max(streams.size(), -1);

    for (const auto & ubatch : ubatches) {
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            auto & pos = pos_max[kv.get_stream(ubatch.seq_id[i][0])];
            pos = std::max(pos, ubatch.pos[i]);
        }
    }

    bool res = true;

    for (uint32_t s = 0; s < streams.size(); ++s) {
        const auto    & cells  = kv.get_cells(s);
        const llama_pos offset = positions.get(s).offset;

        if (pos_max[s] - offset < n_pos_max || cells.get_used() == 0) {
            continue;
        }

        const uint32_t n = std::min(cells.get_used(), params.n_budget);
        const plan     p = make_plan(s, n);

        // a cache that is longer than the model was trained for cannot have lower ones
        if (capkv_positions::new_offset(cells, p.order, p.parts) > offset) {
            targets[s] = { n, true };
            res = false;
        }
    }

    // the batch is tried once more, so the others get what they lack with the same update
    if (!res) {
        prepare_failed(ubatches);
    }
    return res;
}

std::vector<int32_t> capkv_evictor::key_shifts(const plan & p, const capkv_layer & l, int64_t h0, int64_t n_heads) const {
    const int64_t n_target = p.n_target();

    // only reserved
    if (p.pos.empty()) {
        return std::vector<int32_t>(n_target*n_heads, 0);
    }

    const auto & cells = kv.get_cells(p.s);
    const auto & next  = p.next;

    std::vector<int32_t> res;
    for (int64_t h = h0; h < h0 + n_heads; ++h) {
        const auto kept = p.keep[l.i].kept(h);
        const auto mid  = positions.compact_head(cells, p.s, p.order, p.parts, next, l, h, kept);

        for (int64_t j = 0; j < n_target; ++j) {
            const llama_pos after =
                j < next.n_sink    ? next.sink_rope[j] :
                j < next.n_front() ? mid.rope[j - next.n_sink] : p.pos[j] - next.offset;

            res.push_back(after - positions.rope_at(cells, p.s, l, h, p.order[kept[j]]));
        }
    }
    return res;
}

ggml_tensor * capkv_evictor::build_key_shift(
        ggml_context * ctx, capkv_inputs & inputs, const capkv_rope & rope, ggml_tensor * k, ggml_tensor * k_rot, const std::vector<int32_t> & shifts) {
    k = k_rot ? llama_mul_mat_hadamard(ctx, k, k_rot) : k;
    k = rope.shift(ctx, k, inputs.add_i32(ctx, rope.pos_data(shifts)));

    return k_rot ? llama_mul_mat_hadamard(ctx, k, k_rot) : k;
}

//
// sliding windows: their keys are rotated to the same positions as those of the other layers
//

ggml_cgraph * capkv_evictor::build_window_shift(
        ggml_context * ctx, capkv_inputs & inputs, uint32_t s, const std::vector<int32_t> & idx, const span & part, llama_pos delta) const {
    ggml_cgraph * gf = ggml_new_graph_custom(ctx, (part.end - part.beg + 1)*CAPKV_N_NODES_SHIFT, false);

    const int64_t n = idx.size();

    for (size_t i = part.beg; i < part.end; ++i) {
        const auto & l    = kv_swa->layers[i];
        const auto & rope = *observer.get_key_ropes().find(l.il);

        if (!rope.on) {
            continue;
        }

        inputs.buft = capkv_input_buft(l.k);

        ggml_tensor * from = inputs.add_i32(ctx, idx);
        ggml_tensor * to   = inputs.add_i64(ctx, { idx.begin(), idx.end() });
        ggml_tensor * rot  = build_k_rot(ctx, inputs, *kv_swa);

        const int64_t d         = kv_swa->hparams.n_embd_head_k(l.il);
        const int64_t n_head_kv = kv_swa->hparams.n_head_kv(l.il);

        ggml_tensor * k = ggml_reshape_3d(ctx, ggml_get_rows(ctx, l.k_stream[s], from), d, n_head_kv, n);

        k = build_key_shift(ctx, inputs, rope, k, rot, std::vector<int32_t>(n, delta));

        ggml_build_forward_expand(gf, ggml_set_rows(ctx, l.k_stream[s], ggml_reshape_2d(ctx, k, d*n_head_kv, n), to));
    }

    return gf;
}

bool capkv_evictor::each_window_graph(
        uint32_t s, const std::vector<int32_t> & idx, llama_pos delta, const std::function<bool(ggml_cgraph *, const capkv_inputs &)> & f) const {
    const size_t n_layers = kv_swa ? kv_swa->layers.size() : 0;

    for (size_t beg = 0; beg < n_layers && !idx.empty(); beg += CAPKV_N_LAYERS_SHIFT) {
        const span part = { beg, std::min(beg + CAPKV_N_LAYERS_SHIFT, n_layers) };

        const capkv_graph_meta meta((part.end - part.beg + 1)*CAPKV_N_NODES_SHIFT);
        capkv_inputs inputs;

        if (!f(build_window_shift(meta.get(), inputs, s, idx, part, delta), inputs)) {
            return false;
        }
    }
    return true;
}

bool capkv_evictor::reserve_windows(const std::function<bool(ggml_cgraph *, const capkv_inputs &)> & f) const {
    std::vector<int32_t> idx(kv_swa && can_reindex ? kv_swa->get_size() : 0);
    std::iota(idx.begin(), idx.end(), 0);

    return each_window_graph(0, idx, 0, f);
}

bool capkv_evictor::shift_windows(llama_context * lctx, uint32_t s, llama_pos delta) {
    if (!kv_swa || delta == 0) {
        return true;
    }
    if (!sched.exists() && !reserve(lctx)) {
        return false;
    }

    return each_window_graph(s, capkv_positions::order(kv_swa->get_cells(s)), delta, [&](ggml_cgraph * gf, const capkv_inputs & inputs) {
        capkv_outputs none;
        return sched.compute(lctx, gf, inputs, none) == GGML_STATUS_SUCCESS;
    });
}

void capkv_evictor::windows_read(uint32_t s, llama_pos offset) {
    streams[s].window_shift = offset - positions.get(s).offset;
}

void capkv_evictor::shift_windows_read(llama_context * lctx, const std::function<void(llama_seq_id)> & drop) {
    for (uint32_t s = 0; s < streams.size(); ++s) {
        const llama_pos delta = streams[s].window_shift;
        streams[s].window_shift = 0;

        if (delta == 0) {
            continue;
        }
        capkv_sched::wait(lctx);
        if (!shift_windows(lctx, s, delta)) {
            capkv_set_last_error("the sliding windows of a saved state could not be rotated: sequence " + std::to_string(s) +
                    " is empty now and has to be read anew");
            LLAMA_LOG_ERROR("%s: %s\n", __func__, capkv_last_error());
            drop(s);
        }
    }
}
