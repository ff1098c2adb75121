#include "capkv-cache.h"

#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

// the layers of a cache that have attention
static std::vector<capkv_layer> capkv_find_layers(const llama_kv_cache & kv, const llama_model & model, const llama_hparams & hparams) {
    std::vector<capkv_layer> res;

    const auto ids = kv.get_layer_ids();
    for (size_t ikv = 0; ikv < ids.size(); ++ikv) {
        const uint32_t il = ids[ikv];

        if (hparams.n_head_kv(il) == 0) {
            continue;
        }

        capkv_layer l;

        l.il        = il;
        l.ikv       = ikv;
        l.i         = res.size();
        l.n_head    = hparams.n_head(il);
        l.n_head_kv = hparams.n_head_kv(il);
        l.d_k       = hparams.n_embd_head_k(il);
        l.d_v       = hparams.n_embd_head_v(il);

        res.push_back(l);
    }

    if (res.empty()) {
        throw capkv_error("kv_budget is not possible for the architecture '" + model.arch_name() +
                "': no layer has full attention, the sliding windows bound its cache (allowed: 0)");
    }
    return res;
}

capkv_cache::capkv_cache(
        llama_kv_cache & kv, const llama_model & model, const llama_hparams & hparams, capkv_observer::buffers & bufs,
        const capkv_params & params, const capkv_length & length) :
    length(length), kv(kv), params(params), policy(*capkv_policy_find(params.policy)), n_swa(hparams.n_swa),
    layers(capkv_find_layers(kv, model, hparams)),
    positions(layers, kv.get_n_stream()),
    pins     (this->params, layers, positions, kv.get_n_stream()),
    observer (kv, this->params, policy, layers, bufs, hparams.no_alloc),
    evictor  (kv, this->params, policy, layers, positions, pins, observer, length.n_pos_max),
    state    (kv, this->params, layers, positions, pins, observer, evictor) {

    capkv_stats stats = {};
    add_stats(0, stats);

    LLAMA_LOG_INFO("%s: policy = %s, budget = %u, sink = %u, recent = %u, headroom = %u, %u cells for %s, observed queries %.2f MiB\n",
            __func__, params.policy, params.n_budget, params.n_sink, params.n_recent, params.n_headroom, stats.n_cells,
            length.endless ? "a text without end" : ("up to " + std::to_string(length.n_ctx_seq) + " tokens").c_str(), stats.bytes_obs/1024.0/1024.0);
}

void capkv_cache::reset(uint32_t s) {
    reset_text(s);
    observer.drop_focus(s);
}

void capkv_cache::reset_text(uint32_t s) {
    positions.reset     (s);
    pins     .reset     (s);
    observer .reset_text(s);
    evictor  .reset     (s);
}

void capkv_cache::clear() {
    for (uint32_t s = 0; s < n_stream(); ++s) {
        reset(s);
    }
    evictor.clear();
}

bool capkv_cache::can_seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    for (llama_seq_id id = 0; id < (llama_seq_id) n_stream(); ++id) {
        const uint32_t s = kv.get_stream(id);

        if ((seq_id == -1 || id == seq_id) && positions.kind_of_rm(kv.get_cells(id), s, p0, p1) == capkv_positions::RM_REFUSED) {
            LLAMA_LOG_DEBUG("%s: [%d, %d) of sequence %d reaches into what was evicted, the exact tail begins at %d\n",
                    __func__, p0, p1, id, pos_tail(id));
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

    for (llama_seq_id id = 0; id < (llama_seq_id) n_stream(); ++id) {
        if (seq_id != -1 && id != seq_id) {
            continue;
        }

        const uint32_t s = kv.get_stream(id);

        switch (positions.kind_of_rm(kv.get_cells(id), s, p0, p1)) {
            case capkv_positions::RM_WHOLE:
                reset_text(s);
                break;
            case capkv_positions::RM_TAIL:
                observer.forget(s, p0, p1);
                pins.forget(kv.get_cells(id), s, p0, p1);
                break;
            default:
                if (p0 <= 0 && p1 < 0) {
                    pins.reset(s); // of a text that was not begun
                }
                break;
        }
    }

    return true;
}

void capkv_cache::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst) {
    const uint32_t s_src = kv.get_stream(seq_id_src);
    const uint32_t s_dst = kv.get_stream(seq_id_dst);

    if (s_src != s_dst) {
        positions.copy(s_src, s_dst);
        pins     .copy(s_src, s_dst);
        observer .copy(s_src, s_dst);
        evictor  .copy(s_src, s_dst);
    }
}

bool capkv_cache::can_seq_cp(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    return positions.has_all(kv.get_stream(seq_id), p0, p1);
}

void capkv_cache::pin(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    pins.pin(kv.get_cells(seq_id), kv.get_stream(seq_id), p0, p1);
}

void capkv_cache::unpin(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    pins.unpin(kv.get_stream(seq_id), p0, p1);
}

void capkv_cache::check_room(llama_seq_id seq_id, uint32_t n_target) const {
    pins.check_room(kv.get_cells(seq_id), kv.get_stream(seq_id), n_target);
}

void capkv_cache::update(uint32_t s_src, uint32_t s_dst) {
    observer.copy_tensors(s_src, s_dst);
}

llama_pos capkv_cache::seq_pos_min(llama_seq_id seq_id) const {
    return positions.pos_min(kv.get_cells(seq_id), kv.get_stream(seq_id));
}

llama_pos capkv_cache::seq_pos_min(const llama_kv_cache & swa, llama_seq_id seq_id) const {
    // llama-server goes back to a position only if the n_swa positions before it are there. The window's layers need them, the
    // others do not: their tail may begin that much later
    return std::max(swa.seq_pos_min(seq_id), seq_pos_min(seq_id) - n_swa);
}

void capkv_cache::prepare_failed(const std::vector<llama_ubatch> & ubatches) {
    evictor.prepare_failed(ubatches);
}

bool capkv_cache::prepare_eviction(llama_context * lctx, bool optimize) {
    return evictor.prepare(lctx, optimize);
}

bool capkv_cache::evict(llama_context * lctx, const std::function<void(llama_seq_id)> & drop) {
    return evictor.evict(lctx, drop);
}

void capkv_cache::state_write_meta(llama_io_write_i & io, llama_seq_id seq_id) const {
    state.write_meta(io, seq_id);
}

void capkv_cache::state_write_data(llama_io_write_i & io, llama_seq_id seq_id) const {
    state.write_data(io, seq_id);
}

std::unique_ptr<capkv_state::guard> capkv_cache::state_read_meta(llama_io_read_i & io, llama_seq_id seq_id) {
    return state.read_meta(io, seq_id);
}

void capkv_cache::state_read_data(llama_io_read_i & io, llama_seq_id seq_id) {
    state.read_data(io, seq_id);
}

bool capkv_cache::has_offset() const {
    for (uint32_t s = 0; s < n_stream(); ++s) {
        if (positions.get(s).offset != 0) {
            return true;
        }
    }
    return false;
}

std::vector<llama_pos> capkv_cache::head_positions(llama_seq_id seq_id, const capkv_layer & l, int64_t head_kv, bool rope) const {
    const auto   & cells = kv.get_cells(seq_id);
    const uint32_t s     = kv.get_stream(seq_id);

    std::vector<llama_pos> res;
    for (const int32_t cell : capkv_positions::order(cells)) {
        res.push_back(rope ? positions.rope_at(cells, s, l, head_kv, cell) : positions.at(cells, s, l, head_kv, cell));
    }
    return res;
}

void capkv_cache::add_stats(llama_seq_id seq_id, capkv_stats & stats) const {
    const auto   & cells = kv.get_cells(seq_id);
    const uint32_t s     = kv.get_stream(seq_id);
    const auto   & st    = evictor.get(s);

    const uint64_t n_tokens = cells.get_used() + st.n_evicted;

    stats.n_tokens    += n_tokens;
    stats.n_cells     += cells.size();
    stats.n_used      += cells.get_used();
    stats.n_evicted   += st.n_evicted;
    stats.n_evictions += st.n_evictions;
    stats.n_reindexes += st.n_reindexes;

    stats.t_evict_us   += st.t_evict_us;
    stats.t_score_us   += st.t_score_us;
    stats.t_select_us  += st.t_select_us;
    stats.t_compact_us += st.t_compact_us;

    stats.pos_tail   = pos_tail(seq_id);
    stats.pos_offset = pos_offset(seq_id);
    stats.n_pos_max  = length.n_pos_max;

    size_t row = 0; // bytes of K and V of one token
    for (const auto & l : layers) {
        row += ggml_row_size(kv.type_k(), l.d_k*l.n_head_kv) + ggml_row_size(kv.type_v(), l.d_v*l.n_head_kv);
    }
    stats.bytes_kv   += row*cells.size();
    stats.bytes_full += row*(length.endless ? std::max<uint64_t>(length.n_ctx_seq, n_tokens) : length.n_ctx_seq);
    stats.bytes_obs  += observer.n_bytes();
    stats.bytes_pos  += positions.n_bytes(s);
    stats.bytes_work  = evictor.n_bytes_work();
}
