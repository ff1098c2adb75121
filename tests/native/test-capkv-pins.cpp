// pins: which ranges there are, which may be set, and which entries they hold

#include "tiny-model.h"

#include "capkv-pins.h"

using ranges = std::vector<std::pair<llama_pos, llama_pos>>;

// one layer of two KV heads
static const std::vector<capkv_layer> g_layers = { { 3, 0, 0, 4, 2, 16, 16 } };

// a budget of 64, of which 16 have to be left: with 4 sinks and 12 recent tokens, 32 may be pinned
static capkv_params params() {
    capkv_params res = capkv_default_params();
    res.n_budget = 64;
    res.n_sink   = 4;
    res.n_recent = 12;
    return res;
}

static void add(llama_kv_cells & cells, uint32_t cell, llama_pos pos) {
    cells.pos_set(cell, pos);
    cells.seq_add(cell, 0);
}

static llama_kv_cells cells_of(llama_pos n) {
    llama_kv_cells res;
    res.resize(512);
    for (llama_pos p = 0; p < n; ++p) {
        add(res, p, p);
    }
    return res;
}

struct table {
    const capkv_params p = params();
    capkv_positions    positions { g_layers, 2 };
    capkv_pins         pins      { p, g_layers, positions, 2 };
    llama_kv_cells     cells = cells_of(0);

    ranges get(uint32_t s = 0) const {
        ranges res;
        for (const auto & r : pins.get(s)) {
            res.emplace_back(r.p0, r.p1);
        }
        return res;
    }

    void pin(llama_pos p0, llama_pos p1) { pins.pin(cells, 0, p0, p1); }

    // the message of a pin that is refused, which changes nothing
    std::string refused(llama_pos p0, llama_pos p1) {
        const auto before = get();
        std::string res;
        try {
            pin(p0, p1);
        } catch (const capkv_error & err) {
            res = err.what();
        }
        CHECK(!res.empty() && get() == before);
        return res;
    }
};

static bool has(const std::string & text, const std::string & part) {
    return text.find(part) != std::string::npos;
}

static void test_ranges() {
    table t;

    t.pin(10, 12);
    t.pin(20, 22);
    t.pin(5, 6);
    CHECK(t.get() == (ranges { { 5, 6 }, { 10, 12 }, { 20, 22 } }));
    t.pin(12, 14);
    t.pin(19, 20);
    CHECK(t.get() == (ranges { { 5, 6 }, { 10, 14 }, { 19, 22 } }));
    t.pin(13, 20);
    CHECK(t.get() == (ranges { { 5, 6 }, { 10, 22 } }));

    t.pins.unpin(0, 12, 14);
    CHECK(t.get() == (ranges { { 5, 6 }, { 10, 12 }, { 14, 22 } }));
    t.pins.unpin(0, 30, 40);
    t.pins.unpin(0, 11, 11);
    CHECK(t.get() == (ranges { { 5, 6 }, { 10, 12 }, { 14, 22 } }));
    t.pins.unpin(0, 20, -1);
    t.pins.unpin(0, -1, 11);
    CHECK(t.get() == (ranges { { 11, 12 }, { 14, 20 } }));

    t.pins.copy(0, 1);
    t.pins.unpin(0, -1, -1);
    CHECK(t.get().empty() && t.get(1) == (ranges { { 11, 12 }, { 14, 20 } }));
    t.pins.reset(1);
    CHECK(t.get(1).empty());

    for (const auto & r : { std::make_pair(-1, 5), std::make_pair(5, -1), std::make_pair(5, 5), std::make_pair(5, 4), std::make_pair(0, INT32_MAX) }) {
        CHECK(has(t.refused(r.first, r.second), "allowed is a range that is not empty"));
    }
}

static void test_room() {
    table t;

    t.pin(0, 36); // the sinks do not count
    CHECK(has(t.refused(40, 41), "pin [40, 41): 33 pinned tokens, kv_sink = 4 and kv_recent = 12 leave 15 of a budget of 64"));
    CHECK(has(t.refused(40, 41), "at least a quarter of it, 16, so at most 32 pinned tokens"));
    t.pin(0, 20);
    t.pins.unpin(0, 0, 1);
    CHECK(has(t.refused(1000, 1001), "leave 15"));
    t.pins.unpin(0, 35, 36);
    t.pin(1000, 1001);

    t.pins.check_room(t.cells, 0, 64);
    bool ok = true;
    try {
        t.pins.check_room(t.cells, 0, 63);
    } catch (const capkv_error &) {
        ok = false;
    }
    CHECK(!ok);

    // without pins, any budget will do
    t.pins.unpin(0, 4, -1);
    t.pins.check_room(t.cells, 0, 17);

    // a pinned position with the entries of an image
    for (uint32_t i = 0; i < 10; ++i) {
        add(t.cells, i, i);
    }
    for (uint32_t i = 10; i < 43; ++i) {
        add(t.cells, i, 10);
    }
    CHECK(has(t.refused(10, 11), "33 pinned tokens"));
    t.cells.rm(42);
    t.pin(10, 11);
}

// 100 tokens; head 0 keeps 30 to 39 in the middle, head 1 35 to 44; the tail begins at 90
static void evict(table & t) {
    std::vector<capkv_kept> keep = { { 100, 2 } };
    for (const int64_t h : { 0, 1 }) {
        for (llama_pos p = 0; p < 4; ++p)    { keep[0].set(h, { p }); }
        for (llama_pos p = 0; p < 10; ++p)   { keep[0].set(h, { 30 + 5*(llama_pos) h + p }); }
        for (llama_pos p = 90; p < 100; ++p) { keep[0].set(h, { p }); }
    }

    t.cells = cells_of(100);
    const auto order = capkv_positions::order(t.cells);
    std::vector<llama_pos> pos;
    auto next = t.positions.compact(t.cells, 0, order, { 4, 10, 10 }, pos);
    t.positions.set_compacted(t.cells, 0, order, { 4, 10, 10 }, std::move(next), keep);
    t.cells = cells_of(0);
    for (uint32_t j = 0; j < 24; ++j) {
        add(t.cells, j, pos[j]);
    }
}

static void test_what_was_evicted() {
    table t;
    evict(t);

    const auto order = capkv_positions::order(t.cells);
    CHECK(t.pins.of_head(t.cells, 0, order, g_layers[0], 0).empty());

    // sinks, what both heads hold of the middle, the tail, and what is ahead
    t.pin(0, 4);
    t.pin(36, 38);
    t.pin(95, 105);

    for (const int64_t h : { 0, 1 }) {
        const auto pinned = t.pins.of_head(t.cells, 0, order, g_layers[0], h);
        CHECK(pinned.size() == 24);
        for (size_t i = 0; i < 24; ++i) {
            const llama_pos pos = t.positions.at(t.cells, 0, g_layers[0], h, order[i]);
            CHECK(pinned[i] == (pos < 4 || pos == 36 || pos == 37 || pos >= 95));
        }
    }

    // what a head dropped cannot be pinned
    CHECK(has(t.refused(34, 36), "pin [34, 36): some KV heads have dropped the tokens [34, 35): allowed"));
    CHECK(has(t.refused(30, 95), "the tokens [30, 35), [40, 90): allowed are tokens that every head still holds, and those from 90 on"));

    // what is pinned already is held
    t.positions.reset(0);
    t.cells = cells_of(0);
    t.pins.set(0, { { 31, 33 } });
    evict(t);
    CHECK(has(t.refused(30, 35), "the tokens [30, 31), [33, 35):"));
    t.pin(31, 33);
}

static void test_removals() {
    table t;
    t.cells = cells_of(20);

    t.pin(5, 30);
    t.pins.forget(t.cells, 0, 15, -1); // what is ahead of the text stays
    CHECK(t.get() == (ranges { { 5, 15 }, { 20, 30 } }));
    t.pins.forget(t.cells, 0, -1, 8);
    CHECK(t.get() == (ranges { { 8, 15 }, { 20, 30 } }));
    t.pins.forget(t.cells, 0, 10, 12);
    CHECK(t.get() == (ranges { { 8, 10 }, { 12, 15 }, { 20, 30 } }));
}

static void test_valid() {
    CHECK(capkv_pins::is_valid({}));
    CHECK(capkv_pins::is_valid({ { 0, 1 }, { 2, 5 } }));
    CHECK(!capkv_pins::is_valid({ { -2, 1 } }));
    CHECK(!capkv_pins::is_valid({ { -1, 1 } }));
    CHECK(!capkv_pins::is_valid({ { 3, 3 } }));
    CHECK(!capkv_pins::is_valid({ { 0, 2 }, { 2, 5 } }));
    CHECK(!capkv_pins::is_valid({ { 4, 6 }, { 1, 2 } }));
    CHECK(!capkv_pins::is_valid({ { 4, INT32_MAX } }));
}

int main() {
    test_ranges();
    test_room();
    test_what_was_evicted();
    test_removals();
    test_valid();
}
