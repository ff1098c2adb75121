// score, select, compact: everything up to the last step leaves the cache as it was

#include "capkv-cache.h"
#include "capkv-graph.h"
#include "capkv-memory.h"

#include "llama-context.h"
#include "llama-impl.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

// the update of the memory module that runs the evictions
class capkv_update_context : public llama_memory_context_i {
public:
    capkv_update_context(capkv_cache & cache, llama_context * lctx) : cache(cache), lctx(lctx) {}

    bool next()  override { return false; }
    bool apply() override { return cache.apply_update(lctx); }

    llama_memory_status get_status() const override { return LLAMA_MEMORY_STATUS_SUCCESS; }

    const llama_ubatch & get_ubatch() const override { GGML_ABORT("an eviction has no ubatch"); }

private:
    capkv_cache   & cache;
    llama_context * lctx;
};

void capkv_cache::prepare_failed(const std::vector<llama_ubatch> & ubatches) {
    std::vector<uint32_t> n_new(streams.size(), 0);

    for (const auto & ubatch : ubatches) {
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            n_new[seq_stream(ubatch.seq_id[i][0])]++;
        }
    }

    for (uint32_t s = 0; s < streams.size(); ++s) {
        const auto & cells = kv.v_cells[s];

        if (n_new[s] > 0 && cells.get_used() + n_new[s] > cells.size() && cells.get_used() > params.n_budget) {
            targets[s] = params.n_budget;
        }
    }
}

void capkv_cache::request(llama_seq_id seq_id, uint32_t n_target) {
    targets[seq_stream(seq_id)] = n_target;
}

llama_memory_context_ptr capkv_cache::init_update(llama_context * lctx, bool optimize) {
    // what prepare_failed() asked for is asked for again, should it still be needed
    if (!optimize) {
        std::fill(targets.begin(), targets.end(), 0);
    }

    const bool wanted = std::any_of(targets.begin(), targets.end(), [](uint32_t n) { return n > 0; });

    // with the first batch; where that failed, again when there is something to evict
    if (!sched && (wanted || !reserved)) {
        bool ok = false;
        try {
            ok = init_sched(lctx);
        } catch (const std::bad_alloc &) {
            free_sched();
        }
        reserved = true;
        if (!ok) {
            LLAMA_LOG_ERROR("%s: failed to reserve the work memory of evictions\n", __func__);
        }
    }

    if (!wanted) {
        return nullptr;
    }

    return std::make_unique<capkv_update_context>(*this, lctx);
}

bool capkv_cache::apply_update(llama_context * lctx) {
    capkv_memory::apply_pending_copies(*lctx);

    for (uint32_t s = 0; s < streams.size(); ++s) {
        if (targets[s] == 0) {
            continue;
        }

        ggml_status res;
        try {
            res = evict(lctx, s, targets[s]);
        } catch (const std::exception & err) {
            LLAMA_LOG_ERROR("%s: an eviction failed: %s\n", __func__, err.what());
            res = GGML_STATUS_ALLOC_FAILED;
        }
        targets[s] = 0;

        // a sequence that may be empty now is the first thing to tell
        if (res == GGML_STATUS_FAILED || status == GGML_STATUS_SUCCESS) {
            status = res;
        }
    }

    return status == GGML_STATUS_SUCCESS;
}

ggml_status capkv_cache::take_status() {
    const ggml_status res = status;

    status = GGML_STATUS_SUCCESS;

    return res;
}

//
// the steps
//

capkv_cache::plan capkv_cache::make_plan(uint32_t s, uint32_t n_target) const {
    plan p;

    p.s        = s;
    p.order    = cell_order(s);
    p.seq_id   = p.order.empty() ? 0 : kv.v_cells[s].seq_get(p.order[0]);
    p.n_target = n_target;
    p.n_sink   = std::min(params.n_sink,   n_target);
    p.n_recent = std::min(params.n_recent, n_target - p.n_sink);

    // what was taken back may have left less of a tail than that, and the middle never becomes one
    const auto & st = streams[s];
    if (st.evicted) {
        p.n_recent = std::min(p.n_recent, (uint32_t) p.order.size() - st.n_sink - st.n_mid);
    }

    p.n_mid    = n_target - p.n_sink - p.n_recent;

    p.keep .resize(layers.size());
    p.w    .resize(layers.size());
    p.ridge.resize(layers.size());
    p.cap  .resize(layers.size());

    for (size_t i = 0; i < layers.size(); ++i) {
        p.keep [i].resize((size_t) n_target*layers[i].n_head_kv);
        p.w    [i].resize((size_t) n_target*layers[i].n_head_kv);
        p.ridge[i].resize((size_t) 2       *layers[i].n_head_kv);
    }

    return p;
}

// entries that a head keeps, ascending: [n_target]
static void capkv_keep(int64_t n, uint32_t n_sink, uint32_t n_mid, uint32_t n_recent, const float * score, int32_t * keep) {
    // the protected ones are no candidates: whatever their scores are, they stay
    std::vector<int32_t> cand(n - n_sink - n_recent);
    std::iota(cand.begin(), cand.end(), n_sink);

    auto val = [&](int32_t i) { return std::isfinite(score[i]) ? score[i] : -FLT_MAX; };

    // of equal ones the later one stays
    std::nth_element(cand.begin(), cand.begin() + n_mid, cand.end(), [&](int32_t a, int32_t b) {
        return val(a) != val(b) ? val(a) > val(b) : a > b;
    });
    std::sort(cand.begin(), cand.begin() + n_mid);

    std::iota  (keep,                  keep + n_sink, 0);
    std::copy_n(cand.begin(), n_mid,   keep + n_sink);
    std::iota  (keep + n_sink + n_mid, keep + n_sink + n_mid + n_recent, n - n_recent);
}

static std::vector<float> capkv_get_f32(const ggml_tensor * t) {
    std::vector<float> res(ggml_nelements(t));
    ggml_backend_tensor_get(t, res.data(), 0, ggml_nbytes(t));
    return res;
}

ggml_status capkv_cache::select(llama_context * lctx, plan & p) {
    const int64_t n = p.order.size();

    for (const auto & part : spans_scores) {
        const capkv_graph_meta meta(n_nodes_scores(part));
        capkv_inputs inputs;
        std::vector<score_out> outs;

        const auto res = compute(lctx, build_scores(meta.get(), inputs, p, part, outs), inputs);
        if (res != GGML_STATUS_SUCCESS) {
            return res;
        }

        for (const auto & out : outs) {
            const auto score = capkv_get_f32(out.score);
            const auto cap   = capkv_get_f32(out.cap);
            const auto w     = out.w ? capkv_get_f32(out.w) : std::vector<float>(score.size(), 1.0f/n);

            for (int64_t h = 0; h < (int64_t) score.size()/n; ++h) {
                const size_t  head = out.head0 + h;
                int32_t     * keep = p.keep[out.ilayer].data() + head*p.n_target;

                capkv_keep(n, p.n_sink, p.n_mid, p.n_recent, score.data() + h*n, keep);

                for (uint32_t j = 0; j < p.n_target; ++j) {
                    p.w[out.ilayer][head*p.n_target + j] = keep[j] < out.i0 ? 0.0f : w[h*n + keep[j]] + out.eps;
                }

                p.cap  [out.ilayer].all    += cap[2*h];
                p.ridge[out.ilayer][2*head] = cap[2*h + 1];
            }
        }
    }

    return GGML_STATUS_SUCCESS;
}

ggml_status capkv_cache::compact(llama_context * lctx, plan & p) {
    for (const auto & part : spans_compact) {
        const capkv_graph_meta meta(capkv_n_nodes_compact(part.end - part.beg));
        capkv_inputs inputs;
        std::vector<ggml_tensor *> caps;

        const auto res = compute(lctx, build_compact(meta.get(), inputs, p, part, caps), inputs);

        p.moved = p.moved || res != GGML_STATUS_ALLOC_FAILED;
        if (res != GGML_STATUS_SUCCESS) {
            return res;
        }

        for (size_t i = part.beg; i < part.end; ++i) {
            const auto cap = capkv_get_f32(caps[i - part.beg]);
            for (size_t h = 0; h < cap.size()/2; ++h) {
                p.cap[i].kept += cap[2*h];
            }
        }
    }

    return GGML_STATUS_SUCCESS;
}

void capkv_cache::account(plan & p) {
    auto & st    = streams[p.s];
    auto & cells = kv.v_cells[p.s];

    const uint32_t n = p.order.size();

    // true positions, while the old cells are still there
    std::vector<std::vector<llama_pos>> pos_mid(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
        for (int64_t h = 0; h < layers[i].n_head_kv; ++h) {
            for (uint32_t j = p.n_sink; j < p.n_sink + p.n_mid; ++j) {
                pos_mid[i].push_back(cell_pos(p.s, layers[i], h, p.order[p.keep[i][h*p.n_target + j]]));
            }
        }
    }

    struct cell { llama_pos pos; llama_kv_cell_ext ext; };

    const llama_pos    pos_min = cells.pos_get(p.order[0]);
    const llama_pos    pos_max = cells.pos_get(p.order[n - 1]);

    std::vector<cell> kept(p.n_target);
    for (uint32_t j = 0; j < p.n_sink; ++j) {
        kept[j] = { cells.pos_get(p.order[j]), cells.ext_get(p.order[j]) };
    }
    for (uint32_t j = p.n_sink + p.n_mid; j < p.n_target; ++j) {
        const int32_t c = p.order[n - p.n_target + j];
        kept[j] = { cells.pos_get(c), cells.ext_get(c) };
    }

    // in the middle only the order counts, and that it ends where the cells of the tail begin: they may be taken back as a whole
    const llama_pos pos_recent = p.n_recent > 0 ? kept[p.n_target - p.n_recent].pos : pos_max + 1;
    for (uint32_t j = p.n_sink; j < p.n_sink + p.n_mid; ++j) {
        const llama_pos pos = pos_recent - (llama_pos) (p.n_sink + p.n_mid - j);
        kept[j] = { std::max(pos, j > 0 ? kept[j - 1].pos : pos_min), {} };
    }

    // the entries of an image share one position: if some of it was taken from before the tail, it is not there in full
    const bool cut = p.n_recent > 0 && p.n_recent < n && cells.pos_get(p.order[n - p.n_recent - 1]) == pos_recent;
    const llama_pos pos_tail = std::max(pos_recent + (cut ? 1 : 0), st.evicted ? st.pos_tail : 0);

    cells.reset();
    for (uint32_t j = 0; j < p.n_target; ++j) {
        cells.pos_set(j, kept[j].pos);
        cells.ext_set(j, kept[j].ext);
        cells.seq_add(j, p.seq_id);
    }
    kv.v_heads[p.s] = p.n_target;

    st.evicted  = true;
    st.n_sink   = p.n_sink;
    st.n_mid    = p.n_mid;
    st.pos_mid  = std::move(pos_mid);
    st.cap      = std::move(p.cap);
    st.pos_tail = pos_tail;

    st.n_evicted += n - p.n_target;
    st.n_evictions++;
}

ggml_status capkv_cache::evict(llama_context * lctx, uint32_t s, uint32_t n_target) {
    plan p = make_plan(s, n_target);

    if (p.order.size() <= n_target) {
        return GGML_STATUS_SUCCESS;
    }
    if (!sched) {
        return GGML_STATUS_ALLOC_FAILED; // init_update() said why
    }

    // not the context: its clock goes on, the batch that needs the room has begun
    ggml_backend_sched_synchronize(lctx->get_sched());

    const int64_t t_start_us = ggml_time_us();

    auto res = select(lctx, p);
    if (res != GGML_STATUS_SUCCESS) {
        return res;
    }

    {
        // half a compaction would be no cache at all: what was begun is not aborted
        struct no_abort {
            llama_context * lctx;
            bool (* const callback)(void *) = lctx->abort_callback;
            void *  const data              = lctx->abort_callback_data;

            no_abort(llama_context * lctx) : lctx(lctx) { lctx->set_abort_callback(nullptr, nullptr); }
            ~no_abort() { lctx->set_abort_callback(callback, data); }
        } guard(lctx);

        try {
            res = compact(lctx, p);
            if (res == GGML_STATUS_SUCCESS) {
                account(p);
            }
        } catch (const std::exception & err) {
            LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
            res = GGML_STATUS_FAILED;
        }
    }

    // some heads have moved and others have not: what the cells say is true of neither
    if (res != GGML_STATUS_SUCCESS && p.moved) {
        capkv_set_last_error("an eviction failed while cells moved: sequence " + std::to_string(p.seq_id) + " is empty now and has to be read anew");
        LLAMA_LOG_ERROR("%s: %s\n", __func__, capkv_last_error());
        capkv_memory::drop(lctx->get_memory(), p.seq_id);
        return GGML_STATUS_FAILED; // whatever it was, the batch cannot go on
    }
    if (res != GGML_STATUS_SUCCESS) {
        return res;
    }

    streams[s].t_evict_us += ggml_time_us() - t_start_us;

    return GGML_STATUS_SUCCESS;
}
