#include "capkv-pins.h"

#include <algorithm>
#include <limits>

// no text is longer
static constexpr llama_pos CAPKV_PINS_MAX_POS = 1 << 30;

static bool capkv_pinned(const capkv_pins::stream & st, llama_pos pos) {
    const auto it = std::upper_bound(st.begin(), st.end(), pos, [](llama_pos p, const auto & r) { return p < r.p1; });

    return it != st.end() && it->p0 <= pos;
}

static capkv_pins::stream capkv_without(const capkv_pins::stream & st, llama_pos p0, llama_pos p1) {
    if (p1 <= p0) {
        return st;
    }
    capkv_pins::stream res;
    for (const auto & r : st) {
        if (r.p0 < std::min(r.p1, p0)) {
            res.push_back({ r.p0, std::min(r.p1, p0) });
        }
        if (std::max(r.p0, p1) < r.p1) {
            res.push_back({ std::max(r.p0, p1), r.p1 });
        }
    }
    return res;
}

static capkv_pins::stream capkv_with(const capkv_pins::stream & st, llama_pos p0, llama_pos p1) {
    // ranges that touch become one
    for (const auto & r : st) {
        if (r.p0 <= p1 && r.p1 >= p0) {
            p0 = std::min(p0, r.p0);
            p1 = std::max(p1, r.p1);
        }
    }

    auto res = capkv_without(st, p0, p1);
    res.insert(std::upper_bound(res.begin(), res.end(), p0, [](llama_pos p, const auto & r) { return p < r.p0; }), { p0, p1 });
    return res;
}

static std::string capkv_describe_range(llama_pos p0, llama_pos p1) {
    return "[" + std::to_string(p0) + ", " + std::to_string(p1) + ")";
}

capkv_pins::capkv_pins(
        const capkv_params & params, const std::vector<capkv_layer> & layers, const capkv_positions & positions, uint32_t n_stream) :
    params(params), layers(layers), positions(positions), streams(n_stream) {}

void capkv_pins::reset(uint32_t s) {
    streams[s].clear();
}

void capkv_pins::copy(uint32_t s_src, uint32_t s_dst) {
    streams[s_dst] = streams[s_src];
}

void capkv_pins::set(uint32_t s, stream && st) {
    streams[s] = std::move(st);
}

void capkv_pins::pin(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1) {
    const std::string what = "pin " + capkv_describe_range(p0, p1);

    if (p0 < 0 || p1 <= p0 || p1 > CAPKV_PINS_MAX_POS) {
        throw capkv_error(what + ": allowed is a range that is not empty, from 0 to at most " + std::to_string(CAPKV_PINS_MAX_POS));
    }

    for (const auto & r : streams[s]) {
        if (r.p0 <= p0 && r.p1 >= p1) {
            return; // pinned already
        }
    }

    if (const auto gone = lost(cells, s, p0, p1); !gone.empty()) {
        std::string list;
        for (size_t i = 0; i < std::min<size_t>(gone.size(), 4); ++i) {
            list += (i > 0 ? ", " : "") + capkv_describe_range(gone[i].p0, gone[i].p1);
        }
        throw capkv_error(what + ": some KV heads have dropped the tokens " + list + (gone.size() > 4 ? " and others" : "") +
                ": allowed are tokens that every head still holds, and those from " + std::to_string(positions.pos_tail(s)) + " on");
    }

    auto st = capkv_with(streams[s], p0, p1);

    check_room(cells, s, st, params.n_budget, what + ": ");

    streams[s] = std::move(st);
}

void capkv_pins::unpin(uint32_t s, llama_pos p0, llama_pos p1) {
    streams[s] = capkv_without(streams[s], std::max(p0, 0), p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1);
}

void capkv_pins::forget(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1) {
    const llama_pos end = cells.seq_pos_max(s) + 1;

    unpin(s, p0, p1 < 0 ? end : std::min(p1, end));
}

void capkv_pins::check_room(const llama_kv_cells & cells, uint32_t s, uint32_t n_budget) const {
    check_room(cells, s, streams[s], n_budget, "");
}

void capkv_pins::check_room(
        const llama_kv_cells & cells, uint32_t s, const stream & st, uint32_t n_budget, const std::string & what) const {
    const int64_t n_pinned = count(cells, s, st);
    const int64_t n_fixed  = (int64_t) params.n_sink + params.n_recent;
    const int64_t n_least  = (n_budget + 3)/4;

    if (n_pinned > 0 && n_budget - n_fixed - n_pinned < n_least) {
        throw capkv_error(what + std::to_string(n_pinned) + " pinned tokens, kv_sink = " + std::to_string(params.n_sink) + " and kv_recent = " +
                std::to_string(params.n_recent) + " leave " + std::to_string(std::max<int64_t>(0, n_budget - n_fixed - n_pinned)) +
                " of a budget of " + std::to_string(n_budget) + " to choose from: allowed is at least a quarter of it, " +
                std::to_string(n_least) + ", so at most " + std::to_string(std::max<int64_t>(0, n_budget - n_fixed - n_least)) + " pinned tokens");
    }
}

std::vector<bool> capkv_pins::of_head(
        const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const capkv_layer & l, int64_t head_kv) const {
    std::vector<bool> res;

    if (!streams[s].empty()) {
        for (const int32_t cell : order) {
            res.push_back(capkv_pinned(streams[s], positions.at(cells, s, l, head_kv, cell)));
        }
    }
    return res;
}

bool capkv_pins::is_valid(const stream & st) {
    llama_pos end = -1;
    for (const auto & r : st) {
        if (r.p0 <= end || r.p1 <= r.p0 || r.p1 > CAPKV_PINS_MAX_POS) {
            return false;
        }
        end = r.p1;
    }
    return true;
}

capkv_pins::stream capkv_pins::lost(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1) const {
    // the tail holds all that was read and not removed
    p1 = std::min({ p1, positions.pos_tail(s), cells.seq_pos_max(s) + 1 });

    if (p0 >= p1) {
        return {};
    }

    const auto order = capkv_positions::order(cells);

    std::vector<bool> whole(p1 - p0, true);
    for (const auto & l : layers) {
        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            std::vector<uint32_t> n_held(p1 - p0, 0);
            for (const int32_t cell : order) {
                const llama_pos pos = positions.at(cells, s, l, h, cell);
                if (pos >= p0 && pos < p1) {
                    n_held[pos - p0]++;
                }
            }
            // the entries of an image share a position: how many of them there were is not known any more
            for (size_t i = 0; i < n_held.size(); ++i) {
                whole[i] = whole[i] && n_held[i] == 1;
            }
        }
    }

    stream res;
    for (llama_pos pos = p0; pos < p1; ++pos) {
        if (whole[pos - p0] || capkv_pinned(streams[s], pos)) {
            continue;
        }
        if (res.empty() || res.back().p1 < pos) {
            res.push_back({ pos, pos });
        }
        res.back().p1 = pos + 1;
    }
    return res;
}

uint64_t capkv_pins::count(const llama_kv_cells & cells, uint32_t s, const stream & st) const {
    const auto order = capkv_positions::order(cells);

    uint64_t res = 0;
    for (size_t i = params.n_sink; i < order.size() && !st.empty(); ++i) {
        // every head holds the same pinned ones
        res += capkv_pinned(st, positions.at(cells, s, layers[0], 0, order[i]));
    }

    const llama_pos ahead = std::max(cells.seq_pos_max(s) + 1, (llama_pos) params.n_sink);
    for (const auto & r : st) {
        res += std::max(0, r.p1 - std::max(r.p0, ahead));
    }
    return res;
}
