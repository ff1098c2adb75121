#include "capkv-positions.h"

#include <algorithm>
#include <limits>

capkv_positions::capkv_positions(const std::vector<capkv_layer> & layers, uint32_t n_stream) : layers(layers), streams(n_stream) {
    for (uint32_t s = 0; s < n_stream; ++s) {
        reset(s);
    }
}

void capkv_positions::reset(uint32_t s) {
    streams[s] = {};
    streams[s].mid.resize(layers.size());
    streams[s].mid_rope.resize(layers.size());
}

void capkv_positions::copy(uint32_t s_src, uint32_t s_dst) {
    streams[s_dst] = streams[s_src];
}

void capkv_positions::set(uint32_t s, stream && st) {
    streams[s] = std::move(st);
}

std::vector<int32_t> capkv_positions::order(const llama_kv_cells & cells) {
    std::vector<int32_t> res;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i)) {
            res.push_back(i);
        }
    }

    std::stable_sort(res.begin(), res.end(), [&](int32_t a, int32_t b) { return cells.pos_get(a) < cells.pos_get(b); });

    return res;
}

llama_pos capkv_positions::at(const llama_kv_cells & cells, uint32_t s, const capkv_layer & l, int64_t head_kv, uint32_t cell) const {
    const auto & st = streams[s];

    if (cell >= st.n_sink && cell < st.n_front()) {
        return st.mid[l.i][head_kv*st.n_mid + cell - st.n_sink];
    }
    return cells.pos_get(cell);
}

llama_pos capkv_positions::rope_at(const llama_kv_cells & cells, uint32_t s, const capkv_layer & l, int64_t head_kv, uint32_t cell) const {
    const auto & st = streams[s];

    if (st.reindexed && cell < st.n_sink) {
        return st.sink_rope[cell];
    }
    if (st.reindexed && cell < st.n_front()) {
        return st.mid_rope[l.i][head_kv*st.n_mid + cell - st.n_sink];
    }
    return at(cells, s, l, head_kv, cell) - st.offset;
}

llama_pos capkv_positions::pos_min(const llama_kv_cells & cells, uint32_t s) const {
    const llama_pos res = cells.seq_pos_min(s);

    return res >= 0 && streams[s].evicted ? streams[s].pos_tail : res;
}

static void capkv_close_range(llama_pos & p0, llama_pos & p1) {
    p0 = std::max(p0, 0);
    p1 = p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1;
}

capkv_positions::rm_kind capkv_positions::kind_of_rm(const llama_kv_cells & cells, uint32_t s, llama_pos p0, llama_pos p1) const {
    capkv_close_range(p0, p1);

    const llama_pos pos_max = cells.seq_pos_max(s);

    if (pos_max < 0 || p0 > pos_max || p1 <= p0) {
        return RM_NONE;
    }
    if (p0 <= cells.seq_pos_min(s) && p1 > pos_max) {
        return RM_WHOLE;
    }
    return streams[s].evicted && p0 < streams[s].pos_tail ? RM_REFUSED : RM_TAIL;
}

bool capkv_positions::has_all(uint32_t s, llama_pos p0, llama_pos p1) const {
    capkv_close_range(p0, p1);

    return p0 < p1 && (!streams[s].evicted || (p0 == 0 && p1 >= streams[s].pos_tail));
}

capkv_positions::parts capkv_positions::parts_of(uint32_t s, uint32_t n, uint32_t n_target, uint32_t n_sink, uint32_t n_recent) const {
    const auto & st = streams[s];

    if (n_target >= n) {
        return { st.n_sink, st.n_mid, n - st.n_front() };
    }

    parts res;

    res.n_sink   = std::min(n_sink, n_target);
    res.n_recent = std::min(n_recent, n_target - res.n_sink);
    if (st.evicted) {
        res.n_recent = std::min(res.n_recent, n - st.n_front());
    }
    res.n_mid = n_target - res.n_sink - res.n_recent;

    return res;
}

llama_pos capkv_positions::new_offset(const llama_kv_cells & cells, const std::vector<int32_t> & order, const parts & p) {
    const llama_pos pos = p.n_recent > 0 ? cells.pos_get(order[order.size() - p.n_recent]) : cells.pos_get(order.back()) + 1;

    return pos - (llama_pos) p.n_front();
}

capkv_positions::stream capkv_positions::compact(
        const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const parts & p, std::vector<llama_pos> & pos_new) const {
    const auto & st = streams[s];

    const uint32_t n     = order.size();
    const uint32_t n_new = p.n();
    const uint32_t i_mid = p.n_sink;    // first cell of the middle
    const uint32_t i_rec = p.n_front(); // first cell of the recent ones

    stream res;

    res.evicted   = st.evicted || n_new < n;
    res.n_sink    = p.n_sink;
    res.n_mid     = p.n_mid;
    res.reindexed = st.reindexed || p.reindex;
    res.offset    = p.reindex ? new_offset(cells, order, p) : st.offset;

    for (uint32_t j = 0; res.reindexed && j < p.n_sink; ++j) {
        res.sink_rope.push_back(p.reindex ? (llama_pos) j : rope_at(cells, s, layers[0], 0, order[j])); // the same in all heads
    }

    const llama_pos pos_first = cells.pos_get(order[0]);
    const llama_pos pos_last  = cells.pos_get(order[n - 1]);

    pos_new.resize(n_new);
    for (uint32_t j = 0; j < i_mid; ++j) {
        pos_new[j] = cells.pos_get(order[j]);
    }
    for (uint32_t j = i_rec; j < n_new; ++j) {
        pos_new[j] = cells.pos_get(order[n - n_new + j]);
    }

    // the middle has to stay in order and to end right before the recent tokens, which may be taken back as a whole
    const llama_pos pos_recent = p.n_recent > 0 ? pos_new[i_rec] : pos_last + 1;
    for (uint32_t j = i_mid; j < i_rec; ++j) {
        pos_new[j] = std::max(pos_recent - (llama_pos) (i_rec - j), j > 0 ? pos_new[j - 1] : pos_first);
    }

    // the entries of an image share one position: if some of them are not among the recent ones, the tail begins after the image
    const bool cut = p.n_recent > 0 && p.n_recent < n && cells.pos_get(order[n - p.n_recent - 1]) == pos_recent;

    res.pos_tail = std::max(pos_recent + (cut ? 1 : 0), pos_tail(s));

    return res;
}

capkv_positions::middle capkv_positions::compact_head(
        const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const parts & p,
        const stream & next, const capkv_layer & l, int64_t head_kv, const std::vector<int32_t> & kept) const {
    middle res;

    res.pos.resize(p.n_mid);
    for (uint32_t j = 0; j < p.n_mid; ++j) {
        res.pos[j] = at(cells, s, l, head_kv, order[kept[p.n_sink + j]]);
    }

    if (!next.reindexed) {
        return res;
    }
    res.rope.resize(p.n_mid);

    // from the end, where the recent tokens begin in all heads; the entries of an image go on sharing one position
    llama_pos pos_after = p.n_recent > 0 ? cells.pos_get(order[order.size() - p.n_recent]) : -1;
    llama_pos cur       = p.n_front();
    for (int64_t j = (int64_t) p.n_mid - 1; j >= 0; --j) {
        cur        -= res.pos[j] != pos_after;
        pos_after   = res.pos[j];
        res.rope[j] = p.reindex ? cur : rope_at(cells, s, l, head_kv, order[kept[p.n_sink + j]]);
    }

    return res;
}

void capkv_positions::set_compacted(
        const llama_kv_cells & cells, uint32_t s, const std::vector<int32_t> & order, const parts & p, stream && next,
        const std::vector<capkv_kept> & keep) {
    auto & st = streams[s];

    for (const auto & l : layers) {
        capkv_ascending mid, mid_rope;
        mid.reserve((size_t) p.n_mid*l.n_head_kv);

        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            const auto cur = compact_head(cells, s, order, p, next, l, h, keep[l.i].kept(h));

            mid     .append(cur.pos);
            mid_rope.append(cur.rope);
        }
        st.mid     [l.i] = std::move(mid);
        st.mid_rope[l.i] = std::move(mid_rope);
    }

    next.mid      = std::move(st.mid);
    next.mid_rope = std::move(st.mid_rope);

    st = std::move(next);
}

size_t capkv_positions::n_bytes(uint32_t s) const {
    size_t res = 0;
    for (const auto * table : { &streams[s].mid, &streams[s].mid_rope }) {
        for (const auto & mid : *table) {
            res += mid.n_bytes();
        }
    }
    return res;
}
