#include "capkv-state.h"

#include "capkv-memory.h"

#include "llama-impl.h"
#include "llama-io.h"

#include <cstring>

static constexpr uint32_t CAPKV_STATE_MAGIC   = 0x564b5043; // "CPKV"
static constexpr uint32_t CAPKV_STATE_VERSION = 5;

// versions 3 and 4 are still read. They lack pins and RoPE positions: those are the positions themselves. Version 3 held capkv_params as
// the struct was then, in place of the options that have to match, and an end mark after the tensors
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

// the position p of a query of a known question is saved as this less p: a version before it refuses such a state, and reads all others
static constexpr llama_pos CAPKV_STATE_POS_FOCUS = -2;

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
    T res = {}; // a file that ends early gives no error
    io.read(&res, sizeof(res));
    return res;
}

// a value that has to be the same in a state and in the context that reads it
struct capkv_field {
    const char * what;
    uint32_t     val;
    bool         is_type = false; // a ggml_type
};

static const char * capkv_type_name(uint32_t type) {
    const char * res = type < GGML_TYPE_COUNT ? ggml_type_name((ggml_type) type) : nullptr;
    return res ? res : "of no known type";
}

static void capkv_expect(uint32_t found, const capkv_field & here) {
    if (found == here.val) {
        return;
    }
    capkv_state_refuse(here.is_type ?
            std::string(here.what) + " are " + capkv_type_name(found) + ", here they are " + capkv_type_name(here.val) :
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
static std::vector<capkv_field> capkv_state_fields(const capkv_observe & obs, const std::vector<capkv_layer> & layers) {
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

capkv_state::capkv_state(
        llama_kv_cache & kv, const capkv_params & params, const std::vector<capkv_layer> & layers,
        capkv_positions & positions, capkv_pins & pins, capkv_observer & observer, capkv_evictor & evictor) :
    kv(kv), params(params), layers(layers), positions(positions), pins(pins), observer(observer), evictor(evictor) {}

void capkv_state::refuse_type(const char * what, int32_t found, ggml_type here) const {
    const char * type = capkv_type_name(found);

    capkv_state_refuse(std::string("its ") + what + " are " + type + ", here they are " + ggml_type_name(here) +
            ": a context with --cache-type-k " + type + " --cache-type-v " + type + " (type_k and type_v in Python) reads it");
}

//
// one stream
//

void capkv_state::write_stream(llama_io_write_i & io, uint32_t s) const {
    const auto & pos = positions.get(s);
    const auto & obs = observer .get(s);
    const auto & evi = evictor  .get(s);

    capkv_write(io, (uint32_t) pos.evicted);
    capkv_write(io, pos.pos_tail);
    capkv_write(io, pos.n_sink);
    capkv_write(io, pos.n_mid);
    capkv_write(io, obs.n_sum);
    capkv_write(io, evi.n_evicted);
    capkv_write(io, evi.n_evictions);
    capkv_write(io, evi.t_evict_us);

    for (const auto & cap : evi.cap.get()) {
        capkv_write(io, cap);
    }
    for (const auto & row : obs.rows) {
        capkv_write(io, row.is_focus() ? CAPKV_STATE_POS_FOCUS - row.pos : row.pos);
    }
    auto write_all = [&](const std::vector<capkv_ascending> & table) {
        for (const auto & mid : table) {
            const auto all = mid.get();
            io.write(all.data(), all.size()*sizeof(all[0]));
        }
    };
    write_all(pos.mid);

    capkv_write(io, evi.n_reindexes);
    capkv_write(io, (uint32_t) pos.reindexed);
    if (pos.reindexed) {
        capkv_write(io, pos.offset);
        io.write(pos.sink_rope.data(), pos.sink_rope.size()*sizeof(pos.sink_rope[0]));
        write_all(pos.mid_rope);
    }

    const auto & pin = pins.get(s);

    capkv_write(io, (uint32_t) pin.size());
    io.write(pin.data(), pin.size()*sizeof(pin[0]));
}

capkv_state::part capkv_state::read_stream(llama_io_read_i & io) const {
    part res;

    auto & pos = res.pos;
    auto & obs = res.obs;
    auto & evi = res.evi;

    pos.evicted     = capkv_read<uint32_t>(io) != 0;
    pos.pos_tail    = capkv_read<llama_pos>(io);
    pos.n_sink      = capkv_read<uint32_t>(io);
    pos.n_mid       = capkv_read<uint32_t>(io);
    obs.n_sum       = capkv_read<uint64_t>(io);
    evi.n_evicted   = capkv_read<uint64_t>(io);
    evi.n_evictions = capkv_read<uint64_t>(io);
    evi.t_evict_us  = capkv_read<int64_t>(io);

    // checked before they size what is read next
    const uint64_t n_cells = kv.get_size();
    if ((uint64_t) pos.n_sink + pos.n_mid > n_cells) {
        capkv_state_refuse("it needs " + std::to_string((uint64_t) pos.n_sink + pos.n_mid) + " cells, here there are " + std::to_string(n_cells));
    }
    if (pos.pos_tail < 0 || (!pos.evicted && pos.n_mid > 0)) {
        capkv_state_refuse("its position table contradicts itself");
    }

    std::vector<capkv_capacity> cap(layers.size());
    for (auto & c : cap) {
        c = capkv_read<capkv_capacity>(io);
    }
    evi.cap = capkv_capacities(std::move(cap));
    obs.rows.resize(observer.what().n_rows());
    int64_t n_focus = 0;
    for (int64_t j = 0; j < observer.what().n_rows(); ++j) {
        const auto pos = capkv_read<llama_pos>(io);

        const bool is_focus = pos < -1 && pos >= -CAPKV_STATE_MAX_POS && j < observer.what().n_res && n_focus < observer.n_focus_max();
        if (pos < -1 && !is_focus) {
            capkv_state_refuse("a sampled query has the position " + std::to_string(pos));
        }
        n_focus += is_focus;
        obs.rows[j].pos = is_focus ? CAPKV_STATE_POS_FOCUS - pos : pos;
        obs.rows[j].key = is_focus ? 0 : observer.key_of(pos);
    }
    pos.mid.resize(layers.size());
    for (const auto & l : layers) {
        std::vector<llama_pos> mid((size_t) pos.n_mid*l.n_head_kv);
        io.read(mid.data(), mid.size()*sizeof(mid[0]));
        for (const auto p : mid) {
            if (p < 0) {
                capkv_state_refuse("its position table contradicts itself");
            }
        }
        pos.mid[l.i] = capkv_ascending(mid);
    }

    pos.mid_rope.resize(layers.size());
    if (version_read >= 5) {
        evi.n_reindexes = capkv_read<uint64_t>(io);
        pos.reindexed   = capkv_read<uint32_t>(io) != 0;
    }
    if (pos.reindexed) {
        auto read_rope = [&](std::vector<llama_pos> & res, size_t n) {
            res.resize(n);
            io.read(res.data(), n*sizeof(res[0]));
            for (const auto p : res) {
                if (p < -CAPKV_STATE_MAX_POS || p > CAPKV_STATE_MAX_POS) {
                    capkv_state_refuse("a key is rotated to the position " + std::to_string(p));
                }
            }
        };
        std::vector<llama_pos> offset;
        read_rope(offset, 1);
        pos.offset = offset[0];

        read_rope(pos.sink_rope, pos.n_sink);
        for (const auto & l : layers) {
            std::vector<llama_pos> rope;
            read_rope(rope, pos.mid[l.i].size());
            pos.mid_rope[l.i] = capkv_ascending(rope);
        }
    }

    if (version_read >= 5) {
        const uint32_t n_pins = capkv_read<uint32_t>(io);
        if (n_pins > n_cells) {
            capkv_state_refuse("it has " + std::to_string(n_pins) + " pins, here there are " + std::to_string(n_cells) + " cells");
        }
        res.pin.resize(n_pins);
        io.read(res.pin.data(), n_pins*sizeof(res.pin[0]));
        if (!capkv_pins::is_valid(res.pin)) {
            capkv_state_refuse("its pins are not ascending");
        }
    }

    return res;
}

//
// all of it
//

void capkv_state::write_meta(llama_io_write_i & io, llama_seq_id seq_id) const {
    capkv_write(io, CAPKV_STATE_MAGIC);
    capkv_write(io, CAPKV_STATE_VERSION);
    capkv_write_options(io, params);
    for (const auto & field : capkv_state_fields(observer.what(), layers)) {
        capkv_write(io, field.val);
    }

    const auto streams = capkv_memory::streams_of(kv, seq_id);

    capkv_write(io, (uint32_t) streams.size());
    for (const uint32_t s : streams) {
        write_stream(io, s);
    }
}

void capkv_state::write_data(llama_io_write_i & io, llama_seq_id seq_id) const {
    for (const uint32_t s : capkv_memory::streams_of(kv, seq_id)) {
        for (const auto & t : observer.get_tensors()) {
            io.write_tensor(t.t, t.offset(s), t.size());
        }
    }
}

capkv_state::guard::~guard() {
    if (!state.parts_read.empty()) {
        state.parts_read.clear();
        state.kv.state_clear(seq_id);
    }
}

std::unique_ptr<capkv_state::guard> capkv_state::read_meta(llama_io_read_i & io, llama_seq_id seq_id) {
    parts_read.clear();

    if (capkv_read<uint32_t>(io) != CAPKV_STATE_MAGIC) {
        capkv_state_refuse("it was saved without a KV budget");
    }

    version_read = capkv_read<uint32_t>(io);
    if (version_read != 3 && version_read != 4) {
        capkv_expect(version_read, { "the version of its format", CAPKV_STATE_VERSION });
    }

    capkv_expect_options(capkv_read_options(io, version_read), params);
    for (const auto & field : capkv_state_fields(observer.what(), layers)) {
        capkv_expect(capkv_read<uint32_t>(io), field);
    }

    const uint32_t n_stream = capkv_memory::streams_of(kv, seq_id).size();
    capkv_expect(capkv_read<uint32_t>(io), { "its number of sequences", n_stream });

    std::vector<part> res;
    for (uint32_t i = 0; i < n_stream; ++i) {
        res.push_back(read_stream(io));
    }
    parts_read = std::move(res);

    // a state without cells: llama.cpp would leave in place what the sequence holds
    if (seq_id != -1) {
        kv.seq_rm(seq_id, -1, -1);
    }

    return std::unique_ptr<guard>(new guard { *this, seq_id });
}

void capkv_state::read_data(llama_io_read_i & io, llama_seq_id seq_id) {
    GGML_ASSERT(!parts_read.empty());

    const auto streams = capkv_memory::streams_of(kv, seq_id);

    for (size_t i = 0; i < streams.size(); ++i) {
        const uint32_t s = streams[i];

        for (const auto & t : observer.get_tensors()) {
            io.read_tensor(t.t, t.offset(s), t.size());
        }

        // the cells have been read by now: a table of more cells was made up
        const auto & pos = parts_read[i].pos;
        if (pos.evicted && kv.get_cells(s).get_used() < pos.n_sink + pos.n_mid) {
            capkv_state_refuse("its position table speaks of more cells than it holds");
        }
    }

    if (version_read == 3 && capkv_read<uint32_t>(io) != CAPKV_STATE_END_V3) {
        capkv_state_refuse("it breaks off before its end");
    }

    // llama_kv_cache has put the cells anew, from the first one on and in their order, as the table needs it
    for (size_t i = 0; i < streams.size(); ++i) {
        positions.set(streams[i], std::move(parts_read[i].pos));
        observer .set(streams[i], std::move(parts_read[i].obs));
        evictor  .set(streams[i], std::move(parts_read[i].evi));
        pins     .set(streams[i], std::move(parts_read[i].pin));
    }
    for (const uint32_t s : streams) {
        try {
            pins.check_room(kv.get_cells(s), s, params.n_budget);
        } catch (const capkv_error & err) {
            pins.reset(s);
            capkv_state_refuse(err.what());
        }
    }
    parts_read.clear();
}
