// saved states: the host's part (position table, counts) before the cells, the observed queries after them

#include "capkv-cache.h"

#include "llama-impl.h"
#include "llama-io.h"

#include <cstring>

static constexpr uint32_t CAPKV_STATE_MAGIC   = 0x564b5043; // "CPKV"
static constexpr uint32_t CAPKV_STATE_VERSION = 4;

// version 3 is still read. It held capkv_params as the struct was then, in place of the options that have to match, and an end mark
// after the tensors
struct capkv_params_v3 {
    uint32_t n_budget;
    uint64_t budget_bytes;
    float    budget_share;
    char     policy[32];
    uint32_t n_sink;
    uint32_t n_recent;
    uint32_t n_headroom;
    float    tau;
    float    novelty;
    uint32_t seed;
    uint32_t untested;
};

static_assert(sizeof(capkv_params_v3) == 80, "this is the layout of saved states, not of a struct in use");

static constexpr uint32_t CAPKV_STATE_END_V3 = 0x444e4543; // "CEND"

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

// something that a state and the context that reads it have to have in common
struct capkv_field {
    const char * what;
    uint32_t     val;
    bool         is_type = false; // a ggml_type
};

static void capkv_expect(uint32_t found, const capkv_field & here) {
    if (found == here.val) {
        return;
    }
    auto type_name = [](uint32_t type) { return type < GGML_TYPE_COUNT ? ggml_type_name((ggml_type) type) : "of no known type"; };

    capkv_state_refuse(here.is_type ?
            std::string(here.what) + " are " + type_name(found) + ", here they are " + type_name(here.val) :
            std::string(here.what) + " is " + std::to_string(found) + ", here it is " + std::to_string(here.val));
}

// what was observed of the queries depends on these. Other options, and the budget itself, may differ: they hold from the next
// eviction on
struct capkv_state_options {
    char     policy[32];
    uint32_t n_sink;
    uint32_t seed;
};

static void capkv_write_options(llama_io_write_i & io, const capkv_params & params) {
    io.write(params.policy, sizeof(params.policy));
    capkv_write(io, params.n_sink);
    capkv_write(io, params.seed);
}

static capkv_state_options capkv_read_options(llama_io_read_i & io, uint32_t version) {
    capkv_state_options res = {};

    if (version == 3) {
        const auto saved = capkv_read<capkv_params_v3>(io);

        memcpy(res.policy, saved.policy, sizeof(res.policy));
        res.n_sink = saved.n_sink;
        res.seed   = saved.seed;
        return res;
    }

    io.read(res.policy, sizeof(res.policy));
    res.n_sink = capkv_read<uint32_t>(io);
    res.seed   = capkv_read<uint32_t>(io);
    return res;
}

static void capkv_expect_options(const capkv_state_options & saved, const capkv_params & params) {
    const std::string policy(saved.policy, strnlen(saved.policy, sizeof(saved.policy)));
    if (policy != params.policy) {
        capkv_state_refuse("its kv_policy is " + policy + ", here it is " + params.policy);
    }
    capkv_expect(saved.n_sink, { "its kv_sink", params.n_sink });
    capkv_expect(saved.seed,   { "its kv_seed", params.seed });
}

// what else has to match, in the order in which it is saved
static std::vector<capkv_field> capkv_state_fields(const capkv_observe & obs, const std::vector<capkv_cache::layer> & layers) {
    const char * what = "what its policy observes";

    std::vector<capkv_field> res = {
        { what, obs.mean },
        { what, obs.cov },
        { what, (uint32_t) obs.n_res },
        { what, (uint32_t) obs.n_last },
        { "its observed queries", (uint32_t) obs.type, true },
        { "its number of layers", (uint32_t) layers.size() },
    };
    for (const auto & l : layers) {
        res.push_back({ "its number of query heads", (uint32_t) l.n_head });
        res.push_back({ "its number of KV heads",    (uint32_t) l.n_head_kv });
        res.push_back({ "its key size",              (uint32_t) l.d_k });
        res.push_back({ "its value size",            (uint32_t) l.d_v });
    }
    return res;
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
    capkv_write_options(io, params);
    for (const auto & field : capkv_state_fields(obs, layers)) {
        capkv_write(io, field.val);
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

    version_read = capkv_read<uint32_t>(io);
    if (version_read != 3) {
        capkv_expect(version_read, { "the version of its format", CAPKV_STATE_VERSION });
    }

    capkv_expect_options(capkv_read_options(io, version_read), params);
    for (const auto & field : capkv_state_fields(obs, layers)) {
        capkv_expect(capkv_read<uint32_t>(io), field);
    }

    const uint32_t n_stream = seq_id == -1 ? streams.size() : 1;
    capkv_expect(capkv_read<uint32_t>(io), { "its number of sequences", n_stream });

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

    if (version_read == 3 && capkv_read<uint32_t>(io) != CAPKV_STATE_END_V3) {
        capkv_state_refuse("it breaks off before its end");
    }

    // the cells were laid out anew, from the first one on and in their order
    for (uint32_t i = 0; i < streams_read.size(); ++i) {
        streams[s0 + i] = std::move(streams_read[i]);
    }
    streams_read.clear();
}
