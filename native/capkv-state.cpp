// saved states: the host's part (position table, counts) before the cells, the observed queries after them

#include "capkv-cache.h"

#include "llama-impl.h"
#include "llama-io.h"

#include <cstring>

static constexpr uint32_t CAPKV_STATE_MAGIC   = 0x564b5043; // "CPKV"
static constexpr uint32_t CAPKV_STATE_VERSION = 3;
static constexpr uint32_t CAPKV_STATE_END     = 0x444e4543; // "CEND"

[[noreturn]] static void capkv_state_refuse(const std::string & why) {
    const std::string msg = "the saved state does not fit this context: " + why;
    capkv_set_last_error(msg);
    throw capkv_error(msg);
}

template <typename T>
static void capkv_write(llama_io_write_i & io, const T & val) {
    io.write(&val, sizeof(val));
}

template <typename T>
static T capkv_read(llama_io_read_i & io) {
    T res = {}; // a file that breaks off gives fewer bytes without a word
    io.read(&res, sizeof(res));
    return res;
}

static void capkv_expect(uint64_t found, uint64_t expected, const char * what) {
    if (found != expected) {
        capkv_state_refuse(std::string(what) + " is " + std::to_string(found) + ", here it is " + std::to_string(expected));
    }
}

static std::vector<uint32_t> capkv_observed(const capkv_observe & obs) {
    return { obs.mean, obs.cov, (uint32_t) obs.n_res, (uint32_t) obs.n_last };
}

void capkv_cache::state_write_stream(llama_io_write_i & io, const stream & st) const {
    capkv_write(io, (uint32_t) st.evicted);
    capkv_write(io, st.pos_tail);
    capkv_write(io, st.n_sink);
    capkv_write(io, st.n_mid);
    capkv_write(io, st.n_sum);
    capkv_write(io, st.n_evicted);
    capkv_write(io, st.n_evictions);
    capkv_write(io, st.t_evict_us);

    for (const auto & cap : st.cap) {
        capkv_write(io, cap);
    }
    for (const auto & slot : st.slots) {
        capkv_write(io, slot.pos);
    }
    for (const auto & pos : st.pos_mid) {
        io.write(pos.data(), pos.size()*sizeof(pos[0]));
    }
}

void capkv_cache::state_read_stream(llama_io_read_i & io, stream & st) const {
    reset(st);

    st.evicted     = capkv_read<uint32_t>(io) != 0;
    st.pos_tail    = capkv_read<llama_pos>(io);
    st.n_sink      = capkv_read<uint32_t>(io);
    st.n_mid       = capkv_read<uint32_t>(io);
    st.n_sum       = capkv_read<uint64_t>(io);
    st.n_evicted   = capkv_read<uint64_t>(io);
    st.n_evictions = capkv_read<uint64_t>(io);
    st.t_evict_us  = capkv_read<int64_t>(io);

    // the counts size what is read next
    if ((uint64_t) st.n_sink + st.n_mid > n_cells()) {
        capkv_state_refuse("it needs " + std::to_string((uint64_t) st.n_sink + st.n_mid) + " cells, here there are " + std::to_string(n_cells()));
    }
    if (st.pos_tail < 0 || (!st.evicted && st.n_mid > 0)) {
        capkv_state_refuse("its position table contradicts itself");
    }

    for (auto & cap : st.cap) {
        cap = capkv_read<capacity>(io);
    }
    for (auto & slot : st.slots) {
        slot.pos = capkv_read<llama_pos>(io);
        slot.key = res_key(slot.pos);
        if (slot.pos < -1) {
            capkv_state_refuse("a sampled query has the position " + std::to_string(slot.pos));
        }
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        st.pos_mid[i].resize((size_t) st.n_mid*layers[i].n_head_kv);
        io.read(st.pos_mid[i].data(), st.pos_mid[i].size()*sizeof(llama_pos));
        for (const auto pos : st.pos_mid[i]) {
            if (pos < 0) {
                capkv_state_refuse("its position table contradicts itself");
            }
        }
    }
}

void capkv_cache::state_write_meta(llama_io_write_i & io, llama_seq_id seq_id) const {
    capkv_write(io, CAPKV_STATE_MAGIC);
    capkv_write(io, CAPKV_STATE_VERSION);
    capkv_write(io, params);
    for (const uint32_t val : capkv_observed(obs)) {
        capkv_write(io, val);
    }
    capkv_write(io, (uint32_t) obs.type);
    capkv_write(io, (uint32_t) layers.size());

    for (const auto & l : layers) {
        capkv_write(io, (uint32_t) l.n_head);
        capkv_write(io, (uint32_t) l.n_head_kv);
        capkv_write(io, (uint32_t) l.d_k);
        capkv_write(io, (uint32_t) l.d_v);
    }

    capkv_write(io, (uint32_t) (seq_id == -1 ? streams.size() : 1));
    for (uint32_t s = 0; s < streams.size(); ++s) {
        if (seq_id == -1 || s == seq_stream(seq_id)) {
            state_write_stream(io, streams[s]);
        }
    }
}

capkv_cache::state_guard::~state_guard() {
    if (!cache.streams_read.empty()) {
        cache.streams_read.clear();
        cache.kv.state_clear(seq_id);
    }
}

std::unique_ptr<capkv_cache::state_guard> capkv_cache::state_read_meta(llama_io_read_i & io, llama_seq_id seq_id) {
    streams_read.clear();

    if (capkv_read<uint32_t>(io) != CAPKV_STATE_MAGIC) {
        capkv_state_refuse("it was saved without a KV budget");
    }
    capkv_expect(capkv_read<uint32_t>(io), CAPKV_STATE_VERSION, "the version of its format");

    const auto saved = capkv_read<capkv_params>(io);

    // what was observed has to mean the same; the budget itself may differ, it holds from the next eviction on
    if (strncmp(saved.policy, params.policy, sizeof(params.policy)) != 0) {
        capkv_state_refuse("its kv_policy is " + std::string(saved.policy, strnlen(saved.policy, sizeof(saved.policy))) + ", here it is " + params.policy);
    }
    capkv_expect(saved.n_sink, params.n_sink, "its kv_sink");
    capkv_expect(saved.seed,   params.seed,   "its kv_seed");
    for (const uint32_t val : capkv_observed(obs)) {
        capkv_expect(capkv_read<uint32_t>(io), val, "what its policy observes");
    }
    const auto type = capkv_read<uint32_t>(io);
    if (type != (uint32_t) obs.type) {
        capkv_state_refuse("its observed queries are " + std::string(type < GGML_TYPE_COUNT ? ggml_type_name((ggml_type) type) : "of no known type") +
                ", here they are " + ggml_type_name(obs.type));
    }
    capkv_expect(capkv_read<uint32_t>(io), layers.size(), "its number of layers");

    for (const auto & l : layers) {
        capkv_expect(capkv_read<uint32_t>(io), l.n_head,    "its number of query heads");
        capkv_expect(capkv_read<uint32_t>(io), l.n_head_kv, "its number of KV heads");
        capkv_expect(capkv_read<uint32_t>(io), l.d_k,       "its key size");
        capkv_expect(capkv_read<uint32_t>(io), l.d_v,       "its value size");
    }

    const uint32_t n_stream = capkv_read<uint32_t>(io);
    capkv_expect(n_stream, seq_id == -1 ? streams.size() : 1, "its number of sequences");

    std::vector<stream> res(n_stream);
    for (auto & st : res) {
        state_read_stream(io, st);
    }
    streams_read = std::move(res);

    // of a sequence without cells llama.cpp would leave in place what is there
    if (seq_id != -1) {
        kv.seq_rm(seq_id, -1, -1);
    }

    return std::unique_ptr<state_guard>(new state_guard { *this, seq_id });
}

// tensors of one stream, in the order that both directions share
template <typename F>
void capkv_cache::state_tensors(uint32_t s, F && f) const {
    for (const auto & l : layers) {
        for (auto * t : { l.q_sum, l.q_cov, l.q_rows }) {
            if (t) {
                const size_t size = n_rows_of(l, t)*t->nb[1];
                f(t, s*size, size);
            }
        }
    }
}

void capkv_cache::state_write_data(llama_io_write_i & io, llama_seq_id seq_id) const {
    for (uint32_t s = 0; s < streams.size(); ++s) {
        if (seq_id == -1 || s == seq_stream(seq_id)) {
            state_tensors(s, [&](ggml_tensor * t, size_t offset, size_t size) { io.write_tensor(t, offset, size); });
        }
    }
    capkv_write(io, CAPKV_STATE_END);
}

void capkv_cache::state_read_data(llama_io_read_i & io, llama_seq_id seq_id) {
    GGML_ASSERT(!streams_read.empty());

    const uint32_t s0 = seq_id == -1 ? 0 : seq_stream(seq_id);

    for (uint32_t i = 0; i < streams_read.size(); ++i) {
        state_tensors(s0 + i, [&](ggml_tensor * t, size_t offset, size_t size) { io.read_tensor(t, offset, size); });

        // a state that holds fewer cells than its table speaks of was altered
        const auto & st = streams_read[i];
        if (st.evicted && kv.v_cells[s0 + i].get_used() < st.n_sink + st.n_mid) {
            capkv_state_refuse("its position table speaks of more cells than it holds");
        }
    }

    if (capkv_read<uint32_t>(io) != CAPKV_STATE_END) {
        capkv_state_refuse("it breaks off before its end");
    }

    // the cells were laid out anew, from the first one on and in their order
    for (uint32_t i = 0; i < streams_read.size(); ++i) {
        streams[s0 + i] = std::move(streams_read[i]);
    }
    streams_read.clear();
}
