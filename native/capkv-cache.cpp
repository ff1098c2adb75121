#include "capkv-cache.h"

#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <limits>
#include <map>

capkv_cache::capkv_cache(llama_kv_cache & kv, const capkv_params & params, uint32_t n_ctx_seq) :
    kv(kv), params(params), policy(*capkv_policy_find(params.policy)), obs(policy.observe), n_ctx_seq(n_ctx_seq) {

    for (size_t ikv = 0; ikv < kv.layers.size(); ++ikv) {
        const uint32_t il = kv.layers[ikv].il;

        // a layer without attention
        if (kv.hparams.n_head_kv(il) == 0) {
            continue;
        }

        GGML_ASSERT(kv.layers[ikv].v != nullptr && !kv.v_trans);

        layer l;

        l.il        = il;
        l.ikv       = ikv;
        l.i         = layers.size();
        l.n_head    = kv.hparams.n_head(il);
        l.n_head_kv = kv.hparams.n_head_kv(il);
        l.d_k       = kv.hparams.n_embd_head_k(il);
        l.d_v       = kv.hparams.n_embd_head_v(il);

        layers.push_back(l);
    }

    if (layers.empty()) {
        throw capkv_error("kv_budget is not possible for the architecture '" + kv.model.arch_name() +
                "': no layer has full attention, the sliding windows bound its cache (allowed: 0)");
    }

    targets.assign(kv.n_stream, 0);
    streams.resize(kv.n_stream);

    init_obs_type();
    init_obs();

    for (auto & st : streams) {
        reset(st);
    }

    capkv_stats stats = {};
    add_stats(0, stats);

    LLAMA_LOG_INFO("%s: policy = %s, budget = %u, sink = %u, recent = %u, headroom = %u, %u cells for up to %u tokens, observed queries %.2f MiB\n",
            __func__, params.policy, params.n_budget, params.n_sink, params.n_recent, params.n_headroom, stats.n_cells, n_ctx_seq,
            stats.bytes_obs/1024.0/1024.0);
}

capkv_cache::~capkv_cache() {
    ggml_backend_sched_free(sched);
}

// whether a device can store rows of f32 as this type, and give them back
static bool capkv_has_rows(ggml_backend_dev_t dev, ggml_type type, int64_t n_embd) {
    ggml_context_ptr ctx { ggml_init({ 8*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }) };

    ggml_tensor * t    = ggml_new_tensor_2d(ctx.get(), type,          n_embd, 1);
    ggml_tensor * rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, 1);

    ggml_tensor * set = ggml_set_rows(ctx.get(), t, rows, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1));
    ggml_tensor * get = ggml_get_rows(ctx.get(), t,       ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 1));

    return ggml_backend_dev_supports_op(dev, set) && ggml_backend_dev_supports_op(dev, get);
}

// sampled queries in the type that the policy declares; where a layer or its device cannot have it, in the next one that all can,
// and a sample of as many bytes
void capkv_cache::init_obs_type() {
    for (const ggml_type type : { obs.type, GGML_TYPE_F16, GGML_TYPE_F32 }) {
        const bool ok = obs.n_rows() == 0 || std::all_of(layers.begin(), layers.end(), [&](const layer & l) {
            auto * dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(kv.layers[l.ikv].k->buffer));
            if (!dev) {
                dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); // whose buffers name none
            }
            return l.d_k % ggml_blck_size(type) == 0 && (!dev || capkv_has_rows(dev, type, l.d_k*l.n_head));
        });
        if (ok) {
            obs = policy.observe.in_type(type);
            return;
        }
    }
    throw capkv_error("kv_policy = " + std::string(params.policy) + ": the device of the KV cache cannot store its sampled queries (allowed: a policy "
            "without, such as streaming)");
}

// the statistics live beside the layer's K and V: same device, and cleared and counted with them
void capkv_cache::init_obs() {
    const int64_t n_stream = kv.n_stream;

    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctx_map;

    for (auto & l : layers) {
        if (!obs.any()) {
            break;
        }

        auto & ctx = ctx_map[ggml_backend_buffer_get_type(kv.layers[l.ikv].k->buffer)];
        if (!ctx) {
            ggml_init_params init = { 3*layers.size()*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
            ctx.reset(ggml_init(init));
        }

        if (obs.mean) {
            l.q_sum = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, l.d_k*l.n_head, n_stream);
            ggml_format_name(l.q_sum, "cache_q_sum_l%d", l.il);
        }
        if (obs.cov) {
            l.q_cov = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, l.d_k*l.d_k*l.n_head, n_stream);
            ggml_format_name(l.q_cov, "cache_q_cov_l%d", l.il);
        }
        if (obs.n_rows() > 0) {
            l.q_rows = ggml_new_tensor_2d(ctx.get(), obs.type, l.d_k*l.n_head, obs.n_rows()*n_stream + n_scratch());
            ggml_format_name(l.q_rows, "cache_q_rows_l%d", l.il);
        }
    }

    for (auto & [buft, ctx] : ctx_map) {
        ggml_backend_buffer_t buf;
        if (kv.hparams.no_alloc) {
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
        kv.ctxs_bufs.emplace_back(std::move(ctx), buf);
    }
}

uint32_t capkv_cache::seq_stream(llama_seq_id seq_id) const {
    return kv.seq_to_stream[seq_id];
}

uint32_t capkv_cache::n_cells() const {
    return kv.get_size();
}

uint32_t capkv_cache::n_used(llama_seq_id seq_id) const {
    return kv.v_cells[seq_stream(seq_id)].get_used();
}

void capkv_cache::reset(uint32_t s) {
    reset(streams[s]);
}

void capkv_cache::reset(stream & st) const {
    st = {};
    st.pos_mid.resize(layers.size());
    st.slots.assign(obs.n_rows(), { -1, 0 });
    st.cap.resize(layers.size());
}

// what is observed goes on from what these hold: done when the first token comes, a copy of the stream may be pending until then
void capkv_cache::clear_sums(uint32_t s) const {
    for (const auto & l : layers) {
        for (auto * t : { l.q_sum, l.q_cov }) {
            if (t && t->data) {
                ggml_backend_tensor_memset(t, 0, s*t->nb[1], t->nb[1]);
            }
        }
    }
}

void capkv_cache::clear() {
    for (auto & st : streams) {
        reset(st);
    }
    std::fill(targets.begin(), targets.end(), 0);
}

// what a removal does to one sequence
enum capkv_rm {
    CAPKV_RM_NONE,    // nothing of it is in the range
    CAPKV_RM_TAIL,
    CAPKV_RM_WHOLE,
    CAPKV_RM_REFUSED, // the range reaches into the middle
};

static capkv_rm capkv_rm_kind(const capkv_cache::stream & st, llama_pos pos_max, llama_pos p0, llama_pos p1) {
    if (pos_max < 0 || p0 > pos_max || p1 <= p0) {
        return CAPKV_RM_NONE;
    }
    if (p0 == 0 && p1 > pos_max) {
        return CAPKV_RM_WHOLE;
    }
    return st.evicted && p0 < st.pos_tail ? CAPKV_RM_REFUSED : CAPKV_RM_TAIL;
}

static void capkv_rm_range(llama_pos & p0, llama_pos & p1) {
    p0 = std::max(p0, 0);
    p1 = p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1;
}

bool capkv_cache::can_seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    capkv_rm_range(p0, p1);

    for (llama_seq_id id = 0; id < (llama_seq_id) streams.size(); ++id) {
        const uint32_t s = seq_stream(id);

        if ((seq_id == -1 || id == seq_id) && capkv_rm_kind(streams[s], kv.v_cells[s].seq_pos_max(id), p0, p1) == CAPKV_RM_REFUSED) {
            LLAMA_LOG_DEBUG("%s: [%d, %d) of sequence %d reaches into what was evicted, the exact tail begins at %d\n",
                    __func__, p0, p1, id, streams[s].pos_tail);
            return false;
        }
    }

    return true;
}

bool capkv_cache::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    // all or nothing: no sequence is touched if one refuses
    if (!can_seq_rm(seq_id, p0, p1)) {
        return false;
    }

    capkv_rm_range(p0, p1);

    for (llama_seq_id id = 0; id < (llama_seq_id) streams.size(); ++id) {
        if (seq_id != -1 && id != seq_id) {
            continue;
        }

        const uint32_t s = seq_stream(id);

        switch (capkv_rm_kind(streams[s], kv.v_cells[s].seq_pos_max(id), p0, p1)) {
            case CAPKV_RM_WHOLE:
                reset(streams[s]);
                break;
            case CAPKV_RM_TAIL:
                for (auto & slot : streams[s].slots) {
                    if (slot.pos >= p0 && slot.pos < p1) {
                        slot = { -1, 0 };
                    }
                }
                break;
            default:
                break;
        }
    }

    return true;
}

void capkv_cache::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst) {
    const uint32_t s_src = seq_stream(seq_id_src);
    const uint32_t s_dst = seq_stream(seq_id_dst);

    if (s_src != s_dst) {
        streams[s_dst] = streams[s_src];
    }
}

bool capkv_cache::can_seq_cp(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    const uint32_t s = seq_stream(seq_id);

    capkv_rm_range(p0, p1);

    return p0 < p1 && (!streams[s].evicted || (p0 == 0 && p1 >= streams[s].pos_tail));
}

void capkv_cache::update(uint32_t s_src, uint32_t s_dst) {
    ggml_init_params init = { 6*layers.size()*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
    ggml_context_ptr ctx { ggml_init(init) };

    for (const auto & l : layers) {
        for (auto * t : { l.q_sum, l.q_cov, l.q_rows }) {
            if (!t) {
                continue;
            }
            auto view = [&](uint32_t s) {
                auto * res = ggml_view_2d(ctx.get(), t, t->ne[0], n_rows_of(l, t), t->nb[1], s*n_rows_of(l, t)*t->nb[1]);
                res->buffer = t->buffer; // a view has none of its own, and the copy asks for it
                return res;
            };
            ggml_backend_tensor_copy(view(s_src), view(s_dst));
        }
    }
}

llama_pos capkv_cache::seq_pos_min(llama_seq_id seq_id, llama_pos pos_min) const {
    const auto & st = streams[seq_stream(seq_id)];

    // llama.h promises that all of [pos_min, pos_max] is there
    return pos_min >= 0 && st.evicted ? st.pos_tail : pos_min;
}

llama_pos capkv_cache::seq_pos_min(const llama_kv_cache & swa, llama_seq_id seq_id) const {
    // llama-server goes back to a position only if the n_swa positions before it are there. The window's layers need them, the
    // others do not: their tail may begin that much later
    return std::max(swa.seq_pos_min(seq_id), kv.seq_pos_min(seq_id) - (llama_pos) kv.hparams.n_swa);
}

std::vector<int32_t> capkv_cache::cell_order(uint32_t s) const {
    const auto & cells = kv.v_cells[s];

    std::vector<int32_t> res;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i)) {
            res.push_back(i);
        }
    }

    std::stable_sort(res.begin(), res.end(), [&](int32_t a, int32_t b) { return cells.pos_get(a) < cells.pos_get(b); });

    return res;
}

llama_pos capkv_cache::cell_pos(uint32_t s, const layer & l, int64_t head_kv, uint32_t cell) const {
    const auto & st = streams[s];

    if (cell >= st.n_sink && cell < st.n_sink + st.n_mid) {
        return st.pos_mid[l.i][head_kv*st.n_mid + cell - st.n_sink];
    }
    return kv.v_cells[s].pos_get(cell);
}

std::vector<llama_pos> capkv_cache::positions(llama_seq_id seq_id, const layer & l, int64_t head_kv) const {
    const uint32_t s = seq_stream(seq_id);

    std::vector<llama_pos> res;
    for (const int32_t cell : cell_order(s)) {
        res.push_back(cell_pos(s, l, head_kv, cell));
    }
    return res;
}

void capkv_cache::add_stats(llama_seq_id seq_id, capkv_stats & stats) const {
    const uint32_t s  = seq_stream(seq_id);
    const auto   & st = streams[s];

    stats.n_tokens    += kv.v_cells[s].get_used() + st.n_evicted;
    stats.n_cells     += kv.v_cells[s].size();
    stats.n_used      += kv.v_cells[s].get_used();
    stats.n_evicted   += st.n_evicted;
    stats.n_evictions += st.n_evictions;
    stats.t_evict_us  += st.t_evict_us;
    stats.pos_tail     = st.evicted ? st.pos_tail : 0;

    for (const auto & l : layers) {
        const auto & kvl = kv.layers[l.ikv];
        const size_t row = ggml_row_size(kvl.k->type, kvl.k->ne[0]) + ggml_row_size(kvl.v->type, kvl.v->ne[0]);

        stats.bytes_kv   += row*kv.v_cells[s].size();
        stats.bytes_full += row*n_ctx_seq;
        for (const auto * t : { l.q_sum, l.q_cov, l.q_rows }) {
            stats.bytes_obs += t ? ggml_nbytes(t)/streams.size() : 0;
        }
        stats.bytes_pos  += st.pos_mid[l.i].size()*sizeof(llama_pos);
    }

    stats.bytes_work = 0;
    for (int i = 0; sched && i < ggml_backend_sched_get_n_backends(sched); ++i) {
        stats.bytes_work += ggml_backend_sched_get_buffer_size(sched, ggml_backend_sched_get_backend(sched, i));
    }
}
