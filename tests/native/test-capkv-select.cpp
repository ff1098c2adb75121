// which entries a head keeps, from their scores and from what is pinned

#include "tiny-model.h"

#include "capkv-parallel.h"
#include "capkv-select.h"

using vec = std::vector<int32_t>;

static const float INF = std::numeric_limits<float>::infinity();

// sinks 2, recent 3, of 10 entries: 2 to 6 are the candidates
static vec select(uint32_t n_mid, const std::vector<float> & score, const vec & pinned, bool fits = true) {
    std::vector<bool> is_pinned(pinned.empty() ? 0 : score.size());
    for (const auto i : pinned) {
        is_pinned[i] = true;
    }

    vec res(5 + n_mid, -1);
    CHECK(capkv_select({ 2, n_mid, 3 }, score.size(), score.data(), is_pinned, res.data()) == fits);
    return res;
}

// each call once, on as many threads as there are; an exception comes out
static void check_parallel() {
    for (const int n_threads : { 1, 4, 100 }) {
        std::vector<int> calls(57, 0);
        capkv_parallel(calls.size(), n_threads, [&](size_t i) { calls[i]++; });
        CHECK(calls == std::vector<int>(57, 1));

        bool thrown = false;
        try {
            capkv_parallel(calls.size(), n_threads, [](size_t i) { if (i == 20) { throw std::bad_alloc(); } });
        } catch (const std::bad_alloc &) {
            thrown = true;
        }
        CHECK(thrown);
    }
    capkv_parallel(0, 4, [](size_t) { CHECK(false); });
}

int main() {
    const std::vector<float> score = { 9, 9, 1, 5, 2, 4, 3, 0, 0, 0 };

    CHECK(select(2, score, {})  == (vec { 0, 1, 3, 5, 7, 8, 9 }));
    CHECK(select(0, score, {})  == (vec { 0, 1, 7, 8, 9 }));

    // a pinned entry stays, the others are chosen by their scores
    CHECK(select(2, score, { 2 })    == (vec { 0, 1, 2, 3, 7, 8, 9 }));
    CHECK(select(3, score, { 2, 6 }) == (vec { 0, 1, 2, 3, 6, 7, 8, 9 }));
    CHECK(select(2, score, { 2, 4 }) == (vec { 0, 1, 2, 4, 7, 8, 9 }));
    CHECK(select(5, score, { 4 })    == (vec { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 }));

    // one that would stay anyway takes no other's place
    CHECK(select(2, score, { 3 })    == select(2, score, {}));
    CHECK(select(2, score, { 0, 9 }) == select(2, score, {}));

    // whatever the scores are
    CHECK(select(2, { 0, 0, -INF, INF, NAN, INF, 3, 0, 0, 0 }, { 2, 4 }) == (vec { 0, 1, 2, 4, 7, 8, 9 }));
    CHECK(select(2, { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, { 2 })             == (vec { 0, 1, 2, 6, 7, 8, 9 })); // ties: the later one

    CHECK(select(2, { 0, 0, -1, -3, -2, -4, 5, 0, 0, 0 }, {})            == (vec { 0, 1, 2, 6, 7, 8, 9 }));
    CHECK(select(1, { 0, 0, 0.0f, -0.0f, -1, -1, -1, 0, 0, 0 }, {})      == (vec { 0, 1, 3, 7, 8, 9 })); // a tie too

    // more than there is room for
    CHECK(select(2, score, { 2, 4, 6 }, false) == (vec { 0, 1, 4, 6, 7, 8, 9 }));
    CHECK(select(0, score, { 2 }, false)       == (vec { 0, 1, 7, 8, 9 }));

    check_parallel();
}
