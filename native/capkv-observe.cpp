#include "capkv-observe.h"

#include "llama-impl.h"

#include <algorithm>
#include <map>

capkv_observer::capkv_observer(
        const llama_kv_cache & kv, const capkv_params & params, const capkv_policy & policy, const std::vector<capkv_layer> & layers,
        buffers & bufs, bool no_alloc) :
    kv(kv), params(params), layers(layers), obs(choose_type(policy)), layers_obs(layers.size()), streams(kv.get_n_stream()) {
    alloc(bufs, no_alloc);

    for (uint32_t s = 0; s < streams.size(); ++s) {
        reset(s);
    }
}

//
// tensors
//

// whether a device can store rows of f32 as this type, and give them back
static bool capkv_has_rows(ggml_backend_dev_t dev, ggml_type type, int64_t n_embd) {
    ggml_context_ptr ctx { ggml_init({ 8*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }) };

    ggml_tensor * t    = ggml_new_tensor_2d(ctx.get(), type,          n_embd, 1);
    ggml_tensor * rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, 1);

    ggml_tensor * set = ggml_set_rows(ctx.get(), t, rows, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1));
    ggml_tensor * get = ggml_get_rows(ctx.get(), t,       ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 1));

    return ggml_backend_dev_supports_op(dev, set) && ggml_backend_dev_supports_op(dev, get);
}

// the type that the policy declares for sampled queries. If a layer or its device cannot have it: the next type that all of them can,
// and as many queries as fit in the same bytes
capkv_observe capkv_observer::choose_type(const capkv_policy & policy) const {
    const auto & declared = policy.observe;

    for (const ggml_type type : { declared.type, GGML_TYPE_F16, GGML_TYPE_F32 }) {
        const bool ok = declared.n_rows() == 0 || std::all_of(layers.begin(), layers.end(), [&](const capkv_layer & l) {
            auto * dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(kv.get_k_storage(l.il)->buffer));
            if (!dev) {
                dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); // the CPU's buffers name no device
            }
            return l.d_k % ggml_blck_size(type) == 0 && (!dev || capkv_has_rows(dev, type, l.d_k*l.n_head));
        });
        if (ok) {
            return declared.in_type(type);
        }
    }
    throw capkv_error("kv_policy = " + std::string(params.policy) + ": the device of the KV cache cannot store its sampled queries (allowed: a policy "
            "without, such as streaming)");
}

void capkv_observer::alloc(buffers & bufs, bool no_alloc) {
    const int64_t n_stream = streams.size();

    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctx_map;

    for (const auto & l : layers) {
        if (!obs.any()) {
            break;
        }

        auto & ctx = ctx_map[ggml_backend_buffer_get_type(kv.get_k_storage(l.il)->buffer)];
        if (!ctx) {
            ggml_init_params init = { 3*layers.size()*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
            ctx.reset(ggml_init(init));
        }

        auto & res = layers_obs[l.i];

        if (obs.mean) {
            res.q_sum = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, l.d_k*l.n_head, n_stream);
            ggml_format_name(res.q_sum, "cache_q_sum_l%d", l.il);
            tensors.push_back({ res.q_sum, 1, true });
        }
        if (obs.cov) {
            res.q_cov = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, l.d_k*l.d_k*l.n_head, n_stream);
            ggml_format_name(res.q_cov, "cache_q_cov_l%d", l.il);
            tensors.push_back({ res.q_cov, 1, true });
        }
        if (obs.n_rows() > 0) {
            res.q_rows = ggml_new_tensor_2d(ctx.get(), obs.type, l.d_k*l.n_head, obs.n_rows()*n_stream + n_scratch());
            ggml_format_name(res.q_rows, "cache_q_rows_l%d", l.il);
            tensors.push_back({ res.q_rows, obs.n_rows(), false });
        }
    }

    for (auto & [buft, ctx] : ctx_map) {
        ggml_backend_buffer_t buf;
        if (no_alloc) {
            buf = ggml_backend_buft_alloc_buffer(buft, /*size =*/ 0);
            for (auto * t = ggml_get_first_tensor(ctx.get()); t != nullptr; t = ggml_get_next_tensor(ctx.get(), t)) {
                t->buffer = buf;
            }
        } else {
            buf = ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft);
        }
        if (!buf) {
            throw capkv_error("failed to allocate the observed queries of the KV budget");
        }
        ggml_backend_buffer_clear(buf, 0);
        bufs.emplace_back(std::move(ctx), buf);
    }
}

size_t capkv_observer::n_bytes() const {
    size_t res = 0;
    for (const auto & t : tensors) {
        res += ggml_nbytes(t.t)/streams.size();
    }
    return res;
}

void capkv_observer::copy_tensors(uint32_t s_src, uint32_t s_dst) {
    ggml_init_params init = { 2*tensors.size()*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
    ggml_context_ptr ctx { ggml_init(init) };

    for (const auto & t : tensors) {
        auto view = [&](uint32_t s) {
            auto * res = ggml_view_2d(ctx.get(), t.t, t.t->ne[0], t.n_rows, t.t->nb[1], t.offset(s));
            res->buffer = t.t->buffer; // a view has none of its own, and the copy asks for it
            return res;
        };
        ggml_backend_tensor_copy(view(s_src), view(s_dst));
    }
}

// a sequence may be reset while a copy of its tensors is pending: so the sums are cleared only when its first tokens come
void capkv_observer::clear_sums(uint32_t s) const {
    for (const auto & t : tensors) {
        if (t.is_sum && t.t->data) {
            ggml_backend_tensor_memset(t.t, 0, t.offset(s), t.size());
        }
    }
}

//
// streams
//

void capkv_observer::reset(uint32_t s) {
    streams[s] = {};
    streams[s].rows.resize(obs.n_rows());
}

void capkv_observer::copy(uint32_t s_src, uint32_t s_dst) {
    streams[s_dst] = streams[s_src];
}

void capkv_observer::set(uint32_t s, stream && st) {
    streams[s] = std::move(st);
}

void capkv_observer::reset_text(uint32_t s) {
    forget(s, 0, -1);
    streams[s].n_sum = 0;
}

void capkv_observer::forget(uint32_t s, llama_pos p0, llama_pos p1) {
    for (auto & row : streams[s].rows) {
        if (row.pos >= p0 && (p1 < 0 || row.pos < p1) && !row.is_focus()) {
            row = {};
        }
    }
}

uint64_t capkv_observer::key_of(llama_pos pos) const {
    return std::max<uint64_t>(1, capkv_hash(capkv_hash(params.seed) + (uint64_t) pos));
}

//
// a question that is known before its text
//

void capkv_observer::begin_focus(uint32_t s) {
    drop_focus(s);
    s_focus = s;
}

void capkv_observer::end_focus() {
    s_focus = -1;
}

void capkv_observer::drop_focus(uint32_t s) {
    for (auto & row : streams[s].rows) {
        if (row.is_focus()) {
            row = {};
        }
    }
}

int64_t capkv_observer::n_focus(uint32_t s) const {
    return std::count_if(streams[s].rows.begin(), streams[s].rows.end(), [](const row & row) { return row.is_focus(); });
}

//
// which tokens of a batch are taken
//

size_t capkv_observer::n_scratch() const {
    return obs.n_rows_per_token()*streams.size();
}

int64_t capkv_observer::scratch_row(size_t i) const {
    return obs.n_rows()*streams.size() + i;
}

size_t capkv_observer::pad_rows(size_t n) const {
    size_t res = std::min<size_t>(n, 1);
    while (res < n) {
        res *= 2;
    }
    return n > n_scratch() ? n : std::min(res, n_scratch());
}

// the row of a reservoir that a token takes: its own, a free one, or that of the highest key if its own is lower; else -1
static int64_t capkv_reservoir_row(const std::vector<capkv_observer::row> & rows, int64_t n_res, llama_pos pos, uint64_t key) {
    int64_t dst = 0;
    for (int64_t j = 0; j < n_res; ++j) {
        const auto & cur = rows[j];
        const auto & max = rows[dst];
        if (cur.pos == pos && !cur.is_focus()) {
            return j;
        }
        if (max.pos >= 0 && (cur.pos < 0 || cur.key > max.key)) {
            dst = j;
        }
    }
    return rows[dst].pos < 0 || key < rows[dst].key ? dst : -1;
}

// the row of a reservoir that a token of a known question takes: that of the question's oldest token if it has n_max rows, else a free one,
// or that of the highest key
static int64_t capkv_focus_row(const std::vector<capkv_observer::row> & rows, int64_t n_res, int64_t n_max) {
    int64_t n   = 0;
    int64_t old = -1;
    int64_t dst = -1;
    for (int64_t j = 0; j < n_res; ++j) {
        const auto & cur = rows[j];
        if (cur.is_focus()) {
            n++;
            old = old < 0 || cur.pos < rows[old].pos ? j : old;
        } else if (dst < 0 || (rows[dst].pos >= 0 && (cur.pos < 0 || cur.key > rows[dst].key))) {
            dst = j;
        }
    }
    return n < n_max ? dst : old;
}

capkv_observer::plan capkv_observer::make_plan(const llama_ubatch & ubatch, bool warmup) const {
    plan res;

    if (obs.mean) {
        res.sum.resize((size_t) ubatch.n_tokens*streams.size(), 0.0f);
        res.n_sum.resize(streams.size(), 0);
    }

    if (warmup || !obs.any()) {
        return res;
    }

    std::vector<std::vector<row>>     rows (streams.size()); // copies, of the streams in this ubatch
    std::vector<std::vector<int32_t>> taken(streams.size()); // [n_rows] token of the ubatch or -1

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const uint32_t  s   = kv.get_stream(ubatch.seq_id[i][0]);
        const llama_pos pos = ubatch.pos[i];

        const bool is_focus = s == s_focus;

        if (pos < (llama_pos) params.n_sink && !is_focus) {
            continue;
        }

        if (obs.mean && !is_focus) {
            res.sum[(size_t) s*ubatch.n_tokens + i] = 1.0f;
            res.n_sum[s]++;
        }
        if (obs.n_rows() == 0) {
            continue;
        }
        if (rows[s].empty()) {
            rows[s] = streams[s].rows;
            taken[s].assign(obs.n_rows(), -1);
        }

        const row cur = { pos, is_focus ? 0 : key_of(pos) };

        auto take = [&](int64_t dst) {
            rows[s][dst]  = cur;
            taken[s][dst] = i;
        };

        if (is_focus) {
            if (n_focus_max() > 0) {
                take(capkv_focus_row(rows[s], obs.n_res, n_focus_max()));
            }
            continue;
        }
        if (obs.n_res > 0) {
            const int64_t dst = capkv_reservoir_row(rows[s], obs.n_res, pos, cur.key);
            if (dst >= 0) {
                take(dst);
            }
        }
        if (obs.n_last > 0) {
            const int64_t dst = obs.n_res + pos % obs.n_last;
            if (pos >= rows[s][dst].pos) {
                take(dst);
            }
        }
    }

    for (size_t s = 0; s < taken.size(); ++s) {
        for (size_t j = 0; j < taken[s].size(); ++j) {
            if (taken[s][j] >= 0) {
                res.rows.push_back({ taken[s][j], (int64_t) (s*obs.n_rows() + j), (uint32_t) s, rows[s][j] });
            }
        }
    }

    return res;
}

bool capkv_observer::clears_sums(const plan & p) const {
    for (size_t s = 0; s < p.n_sum.size(); ++s) {
        if (p.n_sum[s] > 0 && streams[s].n_sum == 0) {
            return true;
        }
    }
    return false;
}

void capkv_observer::commit(const plan & p) {
    for (const auto & item : p.rows) {
        streams[item.s].rows[item.dst % obs.n_rows()] = item.new_row;
    }

    for (size_t s = 0; s < p.n_sum.size(); ++s) {
        if (p.n_sum[s] > 0 && streams[s].n_sum == 0) {
            clear_sums(s);
        }
        streams[s].n_sum += p.n_sum[s];
    }
}
