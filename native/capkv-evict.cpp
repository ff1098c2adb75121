#include "capkv-evict.h"

#include "capkv-error.h"
#include "capkv-graph.h"
#include "capkv-parallel.h"
#include "capkv-select.h"

#include "llama-context.h"
#include "llama-impl.h"

#include <algorithm>
#include <atomic>
#include <numeric>

capkv_evictor::capkv_evictor(
        llama_kv_cache & kv, const capkv_params & params, const capkv_policy & policy, const std::vector<capkv_layer> & layers,
        capkv_positions & positions, const capkv_pins & pins, capkv_observer & observer, llama_pos n_pos_max) :
    kv(kv), params(params), policy(policy), layers(layers), positions(positions), pins(pins), observer(observer), n_pos_max(n_pos_max),
    streams(kv.get_n_stream()), targets(kv.get_n_stream()),
    n_group(layers.size(), 1), n_group_compact(layers.size(), 1), n_tile(layers.size(), kv.get_size()), n_merge(layers.size(), 1) {

    for (const auto & l : layers) {
        GGML_ASSERT(kv.layers[l.ikv].v != nullptr && !kv.v_trans && "a budget needs flash attention, and K and V of each layer");
    }
    for (uint32_t s = 0; s < streams.size(); ++s) {
        reset(s);
    }
}

void capkv_evictor::clear() {
    std::fill(targets.begin(), targets.end(), target {});
}

void capkv_evictor::reset(uint32_t s) {
    streams[s] = {};
    streams[s].cap = capkv_capacities(layers.size());
}

void capkv_evictor::copy(uint32_t s_src, uint32_t s_dst) {
    streams[s_dst] = streams[s_src];
}

void capkv_evictor::set(uint32_t s, stream && st) {
    streams[s] = std::move(st);
}

//
// when to evict
//

void capkv_evictor::prepare_failed(const std::vector<llama_ubatch> & ubatches) {
    std::vector<uint32_t> n_new(streams.size(), 0);

    for (const auto & ubatch : ubatches) {
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            n_new[kv.get_stream(ubatch.seq_id[i][0])]++;
        }
    }

    for (uint32_t s = 0; s < streams.size(); ++s) {
        const auto & cells = kv.get_cells(s);

        if (n_new[s] > 0 && cells.get_used() + n_new[s] > cells.size() && cells.get_used() > params.n_budget) {
            targets[s].n = params.n_budget;
        }
    }
}

void capkv_evictor::request(uint32_t s, uint32_t n_target) {
    targets[s].n = n_target;
}

bool capkv_evictor::prepare(llama_context * lctx, bool optimize) {
    // this update comes with every batch and only reserves: if the batch finds no room, prepare_failed() sets the targets for the next one
    if (!optimize) {
        std::fill(targets.begin(), targets.end(), target {});
    }

    const bool wanted = std::any_of(targets.begin(), targets.end(), [](const target & t) { return t.n > 0; });

    // reserve with the first batch; where that failed, try again when there is something to evict
    if (!sched.exists() && (wanted || !reserved)) {
        bool ok = false;
        try {
            ok = reserve(lctx);
        } catch (const std::bad_alloc &) {
            sched.free();
        }
        reserved = true;
        if (!ok) {
            LLAMA_LOG_ERROR("%s: failed to reserve the work memory of evictions\n", __func__);
        }
    }

    return wanted;
}

bool capkv_evictor::evict(llama_context * lctx, const std::function<void(llama_seq_id)> & drop) {
    for (uint32_t s = 0; s < streams.size(); ++s) {
        if (targets[s].n == 0) {
            continue;
        }

        ggml_status res;
        try {
            res = evict(lctx, s, targets[s], drop);
        } catch (const std::exception & err) {
            LLAMA_LOG_ERROR("%s: an eviction failed: %s\n", __func__, err.what());
            res = GGML_STATUS_ALLOC_FAILED;
        }
        targets[s] = {};

        // of several results, GGML_STATUS_FAILED is the one to report: a sequence may be empty now
        if (res == GGML_STATUS_FAILED || status == GGML_STATUS_SUCCESS) {
            status = res;
        }
    }

    return status == GGML_STATUS_SUCCESS;
}

ggml_status capkv_evictor::take_status() {
    const ggml_status res = status;

    status = GGML_STATUS_SUCCESS;

    return res;
}

//
// steps: up to compact() the cache stays as it was
//

capkv_evictor::plan capkv_evictor::make_plan(uint32_t s, uint32_t n_target) const {
    plan p;

    const auto & cells = kv.get_cells(s);

    p.s      = s;
    p.order  = capkv_positions::order(cells);
    p.seq_id = p.order.empty() ? 0 : cells.seq_get(p.order[0]);

    p.parts = positions.parts_of(s, p.order.size(), n_target, params.n_sink, params.n_recent);

    p.sums.resize(layers.size());

    for (const auto & l : layers) {
        p.keep     .emplace_back(p.order.size(), l.n_head_kv);
        p.w_dropped.emplace_back((size_t) p.n_dropped()*l.n_head_kv);
    }

    return p;
}

ggml_status capkv_evictor::select(llama_context * lctx, plan & p) {
    const int64_t n = p.order.size();

    const auto & cells = kv.get_cells(p.s);

    // to begin a thread takes as long as to choose from some thousand entries
    const int n_threads = n >= 4096 ? capkv_sched::n_threads(lctx) : 1;

    std::atomic<bool> fits { true };

    const auto res = compute_scores(lctx, p, [&](const score_out & out, const capkv_outputs & outputs) {
        const auto & score = outputs.get(out.score);
        const auto & sum   = outputs.get(out.sum);
        const auto * w     = out.w ? outputs.get(out.w).data() : nullptr;

        const size_t n_heads = score.size()/n/out.n_layers;

        for (size_t i = 0; i < out.n_layers; ++i) {
            const auto & l    = layers[out.ilayer + i];
            auto       & sums = p.sums[l.i];

            sums.d     = l.d_v;
            sums.ridge = out.weights.ridge;
            sums.all.insert(sums.all.end(), sum.begin() + i*n_heads*l.d_v*l.d_v, sum.begin() + (i + 1)*n_heads*l.d_v*l.d_v);
        }

        capkv_parallel(out.n_layers*n_heads, n_threads, [&](size_t i) {
            const auto  & l    = layers[out.ilayer + i/n_heads];
            const size_t  head = out.head0 + i%n_heads;

            std::vector<int32_t> kept(p.n_target());
            if (!capkv_select(p.parts, n, score.data() + i*n, pins.of_head(cells, p.s, p.order, l, head), kept.data())) {
                fits = false;
            }
            p.keep[l.i].set(head, kept);

            float * w_dropped = p.w_dropped[l.i].data() + head*p.n_dropped();
            for (const int32_t j : p.keep[l.i].dropped(head)) {
                *w_dropped++ = j < out.weights.i0 ? 0.0f : (w ? w[i*n + j] : 1.0f/n) + out.weights.eps;
            }
        });
    });
    if (res != GGML_STATUS_SUCCESS) {
        return res;
    }

    if (!fits) { // an image has more entries than the positions that were pinned for it
        LLAMA_LOG_WARN("%s: more entries of sequence %d are pinned than the budget of %d has room for: those that score lowest are evicted\n",
                __func__, p.seq_id, (int) p.n_target());
    }

    return GGML_STATUS_SUCCESS;
}

void capkv_evictor::keep_all(plan & p) const {
    std::vector<int32_t> all(p.n_target());
    std::iota(all.begin(), all.end(), 0);

    for (const auto & l : layers) {
        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            p.keep[l.i].set(h, all);
        }
    }
}

ggml_status capkv_evictor::compact(llama_context * lctx, plan & p) {
    for (auto & part : spans_compact) {
        std::vector<ggml_tensor *> sums;
        capkv_outputs outputs;

        const int64_t t_start_us = ggml_time_us();

        const auto res = compute(lctx, part, n_nodes_compact(part), outputs, [&](ggml_context * ctx, capkv_inputs & inputs) {
            ggml_cgraph * gf = build_compact(ctx, inputs, p, part, sums);
            for (const auto * sum : sums) {
                outputs.add(sum);
            }
            return gf;
        });

        p.t_compact_us += ggml_time_us() - t_start_us;

        p.moved = p.moved || res != GGML_STATUS_ALLOC_FAILED;
        if (res != GGML_STATUS_SUCCESS) {
            return res;
        }

        // of the groups of heads, one after the other
        for (size_t i = part.beg, j = 0; i < part.end && j < sums.size(); ++i) {
            auto & s = p.sums[i];

            s.kept = s.all;
            for (size_t k = 0; k < s.kept.size(); ++j) {
                for (const float x : outputs.get(sums[j])) {
                    s.kept[k++] -= x;
                }
            }
        }
    }

    return GGML_STATUS_SUCCESS;
}

void capkv_evictor::account(plan & p) {
    auto & cells = kv.v_cells[p.s];

    const uint32_t n        = p.order.size();
    const uint32_t n_target = p.n_target();

    // what the cells are to hold, while the old cells are still there
    std::vector<llama_kv_cell_ext> ext(n_target); // a head's middle is its own: there is nothing to say of a cell as a whole
    for (uint32_t j = 0; j < p.parts.n_sink; ++j) {
        ext[j] = cells.ext_get(p.order[j]);
    }
    for (uint32_t j = n_target - p.parts.n_recent; j < n_target; ++j) {
        ext[j] = cells.ext_get(p.order[n - n_target + j]);
    }

    positions.set_compacted(cells, p.s, p.order, p.parts, std::move(p.next), p.keep);

    cells.reset();
    for (uint32_t j = 0; j < n_target; ++j) {
        cells.pos_set(j, p.pos[j]);
        cells.ext_set(j, ext[j]);
        cells.seq_add(j, p.seq_id);
    }
    kv.v_heads[p.s] = n_target;

    auto & st = streams[p.s];

    if (p.evicts()) {
        st.cap        = capkv_capacities(std::move(p.sums));
        st.n_evicted += n - n_target;
        st.n_evictions++;
    }
    st.n_reindexes += p.parts.reindex;
}

ggml_status capkv_evictor::evict(llama_context * lctx, uint32_t s, const target & t, const std::function<void(llama_seq_id)> & drop) {
    plan p = make_plan(s, t.n);

    p.parts.reindex = can_reindex && (t.reindex || (p.evicts() && params.reindex == CAPKV_REINDEX_ALWAYS));

    if (!p.evicts() && !p.parts.reindex) {
        return GGML_STATUS_SUCCESS;
    }
    if (!sched.exists()) {
        return GGML_STATUS_ALLOC_FAILED; // prepare() said why
    }

    capkv_sched::wait(lctx);

    const int64_t t_start_us = ggml_time_us();

    if (p.evicts()) {
        const auto res = select(lctx, p);
        if (res != GGML_STATUS_SUCCESS) {
            return res;
        }
    } else {
        keep_all(p);
    }

    const int64_t t_select_us = ggml_time_us();

    p.next = positions.compact(kv.get_cells(p.s), s, p.order, p.parts, p.pos);

    ggml_status res;
    {
        // a compaction that has begun has to end
        const capkv_sched::no_abort guard(lctx);

        try {
            res = compact(lctx, p);
            if (res == GGML_STATUS_SUCCESS && !shift_windows(lctx, s, positions.get(s).offset - p.next.offset)) {
                res = GGML_STATUS_FAILED;
            }
            if (res == GGML_STATUS_SUCCESS) {
                account(p);
            }
        } catch (const std::exception & err) {
            LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
            res = GGML_STATUS_FAILED;
        }
    }

    // some heads have moved and others have not: no layout of the cells is true of all of them
    if (res != GGML_STATUS_SUCCESS && p.moved) {
        capkv_set_last_error("an eviction failed while cells moved: sequence " + std::to_string(p.seq_id) + " is empty now and has to be read anew");
        LLAMA_LOG_ERROR("%s: %s\n", __func__, capkv_last_error());
        drop(p.seq_id);
        return GGML_STATUS_FAILED; // also after an aborted or unallocated graph: the batch cannot go on
    }
    if (res != GGML_STATUS_SUCCESS) {
        return res;
    }

    const int64_t t_end_us = ggml_time_us();

    LLAMA_LOG_DEBUG("%s: %u of %zu entries stay; %.2f ms for scores and choice, of which %.2f ms to compute the scores; %.2f ms for the compaction, of which %.2f ms to compute it\n",
            __func__, t.n, p.order.size(), (t_select_us - t_start_us)/1000.0, p.t_scores_us/1000.0, (t_end_us - t_select_us)/1000.0, p.t_compact_us/1000.0);

    auto & st = streams[s];

    st.t_evict_us   += t_end_us - t_start_us;
    st.t_score_us   += p.t_scores_us;
    st.t_select_us  += t_select_us - t_start_us - p.t_scores_us;
    st.t_compact_us += t_end_us - t_select_us;

    return GGML_STATUS_SUCCESS;
}
