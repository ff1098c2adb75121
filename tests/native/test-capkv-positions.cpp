// the position table: what an eviction makes of it, and what can be taken back after one

#include "tiny-model.h"

#include "capkv-positions.h"

#include <algorithm>

using parts = capkv_positions::parts;

// one layer of two KV heads
static const std::vector<capkv_layer> g_layers = { { 3, 0, 0, 4, 2, 16, 16 } };

// a stream whose cells hold these positions, in an order of their own
static llama_kv_cells cells_of(const std::vector<llama_pos> & pos) {
    llama_kv_cells res;
    res.resize(32);
    for (size_t i = 0; i < pos.size(); ++i) {
        const uint32_t cell = (i*5 + 3) % 32;
        res.pos_set(cell, pos[i]);
        res.seq_add(cell, 0);
    }
    return res;
}

static std::vector<llama_pos> from_to(llama_pos p0, llama_pos p1) {
    std::vector<llama_pos> res;
    for (llama_pos p = p0; p < p1; ++p) {
        res.push_back(p);
    }
    return res;
}

// evicts: head h keeps the entries mid[h] in its middle; the positions of the cells afterwards
static std::vector<llama_pos> evict(capkv_positions & table, llama_kv_cells & cells, const parts & p, const std::vector<std::vector<int32_t>> & mid) {
    const auto order = capkv_positions::order(cells);
    const int32_t n  = order.size();

    std::vector<capkv_kept> keep = { { n, (int64_t) mid.size() } };
    for (size_t h = 0; h < mid.size(); ++h) {
        CHECK(mid[h].size() == p.n_mid);
        for (uint32_t j = 0; j < p.n_sink; ++j)   { keep[0].set(h, { (int32_t) j }); }
        keep[0].set(h, mid[h]);
        for (uint32_t j = 0; j < p.n_recent; ++j) { keep[0].set(h, { (int32_t) (n - p.n_recent + j) }); }
    }

    std::vector<llama_pos> pos;
    auto next = table.compact(cells, 0, order, p, pos);
    table.set_compacted(cells, 0, order, p, std::move(next), keep);

    cells.reset();
    for (uint32_t j = 0; j < p.n(); ++j) {
        cells.pos_set(j, pos[j]);
        cells.seq_add(j, 0);
    }
    return pos;
}

// what the keys of a head are rotated to
static std::vector<llama_pos> rope(const capkv_positions & table, const llama_kv_cells & cells, int64_t h) {
    std::vector<llama_pos> res;
    for (const int32_t cell : capkv_positions::order(cells)) {
        res.push_back(table.rope_at(cells, 0, g_layers[0], h, cell));
    }
    return res;
}

static std::vector<llama_pos> head(const capkv_positions & table, const llama_kv_cells & cells, int64_t h) {
    std::vector<llama_pos> res;
    for (const int32_t cell : capkv_positions::order(cells)) {
        res.push_back(table.at(cells, 0, g_layers[0], h, cell));
    }
    return res;
}

using vec = std::vector<llama_pos>;

static void test_before_an_eviction() {
    capkv_positions table(g_layers, 1);
    const auto cells = cells_of(from_to(0, 10));

    CHECK(head(table, cells, 1) == from_to(0, 10));
    CHECK(table.pos_min(cells, 0) == 0 && table.pos_tail(0) == 0 && table.n_bytes(0) == 0);
    CHECK(table.parts_of(0, 100, 80, 4, 64).n_recent == 64);
    CHECK(rope(table, cells, 1) == from_to(0, 10));
    CHECK(table.has_all(0, 3, 7) && !table.has_all(0, 7, 7));

    CHECK(table.kind_of_rm(cells, 0,  3,  5) == capkv_positions::RM_TAIL);
    CHECK(table.kind_of_rm(cells, 0,  0, 10) == capkv_positions::RM_WHOLE);
    CHECK(table.kind_of_rm(cells, 0, -1, -1) == capkv_positions::RM_WHOLE);
    CHECK(table.kind_of_rm(cells, 0, 10, -1) == capkv_positions::RM_NONE);
    CHECK(table.kind_of_rm(cells, 0,  5,  5) == capkv_positions::RM_NONE);
}

static void test_evictions() {
    capkv_positions table(g_layers, 1);
    auto cells = cells_of(from_to(0, 20));

    // the middle's cells end right before the recent ones
    CHECK(evict(table, cells, { 2, 3, 4 }, { { 5, 7, 9 }, { 2, 8, 15 } }) == (vec { 0, 1, 13, 14, 15, 16, 17, 18, 19 }));
    CHECK(head(table, cells, 0) == (vec { 0, 1, 5, 7, 9,  16, 17, 18, 19 }));
    CHECK(head(table, cells, 1) == (vec { 0, 1, 2, 8, 15, 16, 17, 18, 19 }));
    CHECK(table.pos_tail(0) == 16 && table.pos_min(cells, 0) == 16);
    CHECK(table.n_bytes(0) == 2*3*sizeof(uint16_t) + 16); // and where the upper half of the positions changes

    CHECK(table.kind_of_rm(cells, 0, 15, -1) == capkv_positions::RM_REFUSED);
    CHECK(table.kind_of_rm(cells, 0,  0, 20 - 1) == capkv_positions::RM_REFUSED);
    CHECK(table.kind_of_rm(cells, 0, 16, -1) == capkv_positions::RM_TAIL);
    CHECK(table.kind_of_rm(cells, 0,  0, 20) == capkv_positions::RM_WHOLE);
    CHECK(table.has_all(0, 0, 16) && !table.has_all(0, 0, 15) && !table.has_all(0, 1, 20));

    // two tokens are taken back: the recent window cannot reach into the middle
    cells.rm(7);
    cells.rm(8);
    const auto p = table.parts_of(0, cells.get_used(), 6, 2, 4);
    CHECK(p.n_sink == 2 && p.n_mid == 2 && p.n_recent == 2);

    // the next eviction keeps positions that only the table knows, and the tail never begins earlier
    CHECK(evict(table, cells, { 2, 1, 1 }, { { 3 }, { 5 } }) == (vec { 0, 1, 16, 17 }));
    CHECK(head(table, cells, 0) == (vec { 0, 1, 7,  17 }));
    CHECK(head(table, cells, 1) == (vec { 0, 1, 16, 17 }));
    CHECK(table.pos_tail(0) == 17);

    table.reset(0);
    CHECK(table.pos_tail(0) == 0 && table.n_bytes(0) == 0);
}

// the entries of an image share a position
static void test_image() {
    for (const uint32_t n_recent : { 4, 3 }) {
        capkv_positions table(g_layers, 1);
        auto cells = cells_of({ 0, 1, 2, 3, 4, 5, 6, 6, 6, 7 });

        // all three of them are recent, or one is not: then the tail begins after the image
        const uint32_t n_mid = 5 - n_recent;
        const std::vector<int32_t> mid(from_to(3, 3 + n_mid));
        const auto pos = evict(table, cells, { 1, n_mid, n_recent }, { mid, mid });
        CHECK(table.pos_tail(0) == (n_recent == 4 ? 6 : 7));
        CHECK(pos[1 + n_mid] == 6 && std::is_sorted(pos.begin(), pos.end()));
    }
}

// a middle that is longer than the positions before the recent tokens: it stays in order
static void test_positions_stay_in_order() {
    capkv_positions table(g_layers, 1);
    auto cells = cells_of({ 0, 0, 0, 0, 0, 0, 1 });

    CHECK(evict(table, cells, { 0, 3, 1 }, { { 0, 1, 2 }, { 3, 4, 5 } }) == (vec { 0, 0, 0, 1 }));
}

// entries are numbered anew: from 0 on, without gaps before the tail
static void test_new_rope_positions() {
    capkv_positions table(g_layers, 1);
    auto cells = cells_of(from_to(0, 20));

    evict(table, cells, { 2, 3, 4, /*.reindex =*/ true }, { { 5, 7, 9 }, { 2, 8, 15 } });
    CHECK(head(table, cells, 0) == (vec { 0, 1, 5, 7, 9, 16, 17, 18, 19 }));
    CHECK(rope(table, cells, 0) == from_to(0, 9) && rope(table, cells, 1) == from_to(0, 9));
    CHECK(table.get(0).offset == 11 && table.pos_tail(0) == 16);
    CHECK(table.n_bytes(0) == 2*(2*3*sizeof(uint16_t) + 16));

    // the text goes on, and an eviction leaves them as they are
    for (llama_pos p = 20; p < 24; ++p) {
        cells.pos_set(p - 11, p);
        cells.seq_add(p - 11, 0);
    }
    CHECK(rope(table, cells, 0) == from_to(0, 13));
    evict(table, cells, { 2, 2, 3 }, { { 2, 6 }, { 4, 9 } });
    CHECK(head(table, cells, 0) == (vec { 0, 1, 5,  17, 21, 22, 23 }) && rope(table, cells, 0) == (vec { 0, 1, 2, 6, 10, 11, 12 }));
    CHECK(head(table, cells, 1) == (vec { 0, 1, 15, 20, 21, 22, 23 }) && rope(table, cells, 1) == (vec { 0, 1, 4, 9, 10, 11, 12 }));
    CHECK(table.get(0).offset == 11);

    // nothing is evicted, but what is there moves up: the parts stay, and so does the tail
    auto p = table.parts_of(0, 7, 7, 1, 1);
    CHECK(p.n_sink == 2 && p.n_mid == 2 && p.n_recent == 3);
    p.reindex = true;
    evict(table, cells, p, { { 2, 3 }, { 2, 3 } });
    CHECK(head(table, cells, 1) == (vec { 0, 1, 15, 20, 21, 22, 23 }) && rope(table, cells, 1) == from_to(0, 7));
    CHECK(table.get(0).offset == 17 && table.pos_tail(0) == 21);

    // taken back: the offset stays while anything is left
    CHECK(table.kind_of_rm(cells, 0, 21, -1) == capkv_positions::RM_TAIL);
    table.reset(0);
    CHECK(table.get(0).offset == 0 && !table.get(0).reindexed);
}

// a sequence from which nothing was evicted, and that has a gap
static void test_new_rope_positions_without_an_eviction() {
    capkv_positions table(g_layers, 1);
    auto cells = cells_of({ 100, 101, 105, 106 });

    auto p = table.parts_of(0, 4, 4, 1, 1);
    CHECK(p.n_front() == 0 && p.n_recent == 4);
    p.reindex = true;
    CHECK(capkv_positions::new_offset(cells, capkv_positions::order(cells), p) == 100);
    evict(table, cells, p, { {}, {} });
    CHECK(rope(table, cells, 0) == (vec { 0, 1, 5, 6 }) && head(table, cells, 0) == (vec { 100, 101, 105, 106 }));
    CHECK(table.pos_tail(0) == 0 && table.get(0).offset == 100);

    // all of it is taken back, though it does not begin at 0
    CHECK(table.kind_of_rm(cells, 0, 100, -1) == capkv_positions::RM_WHOLE);
}

// the entries of an image go on sharing a position, which meets that of the recent ones where the image is cut
static void test_new_rope_positions_of_images() {
    for (const uint32_t n_recent : { 4, 3 }) {
        capkv_positions table(g_layers, 1);
        auto cells = cells_of({ 0, 1, 2, 2, 2, 5, 6, 6, 6, 9 });

        const uint32_t n_mid = 7 - n_recent;
        const auto     mid   = n_recent == 4 ? std::vector<int32_t> { 2, 3, 4 } : std::vector<int32_t> { 3, 4, 5, 6 };
        evict(table, cells, { 1, n_mid, n_recent, /*.reindex =*/ true }, { mid, mid });
        CHECK(rope(table, cells, 0) == (n_recent == 4 ? vec { 0, 3, 3, 3, 4, 4, 4, 7 } : vec { 0, 3, 3, 4, 5, 5, 5, 8 }));
    }
}

// two heads, positions that need more than 16 bits
static void test_ascending() {
    const vec all = { 5, 65535, 65536, 200000, 2000000000, 3, 70000, 70001 };

    capkv_ascending list;
    CHECK(list.empty() && list.get().empty());
    list.append({ all.begin(), all.begin() + 5 });
    list.append({ all.begin() + 5, all.end() });

    CHECK(list.size() == all.size() && list.get() == all && list[3] == 200000 && list[5] == 3);

    vec many;
    for (llama_pos p = 0; p < 100000; p += 3) {
        many.push_back(p);
    }
    CHECK(capkv_ascending(many).get() == many && capkv_ascending(many).n_bytes() < 2*many.size() + 100);
}

static void test_streams() {
    capkv_positions table(g_layers, 2);
    auto cells = cells_of(from_to(0, 20));
    evict(table, cells, { 2, 3, 4 }, { { 5, 7, 9 }, { 2, 8, 15 } });

    table.copy(0, 1);
    table.reset(0);
    CHECK(table.pos_tail(1) == 16 && table.pos_tail(0) == 0);
    CHECK(table.get(1).mid[0].get() == (vec { 5, 7, 9, 2, 8, 15 }));
}

int main() {
    test_before_an_eviction();
    test_evictions();
    test_image();
    test_positions_stay_in_order();
    test_new_rope_positions();
    test_new_rope_positions_without_an_eviction();
    test_new_rope_positions_of_images();
    test_ascending();
    test_streams();
}
