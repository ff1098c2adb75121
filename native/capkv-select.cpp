#include "capkv-select.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

// a number that is the higher, the sooner the entry stays: pinned ones first, then by score; of equal scores the later entry stays
static uint64_t capkv_rank(float score, bool pinned, uint64_t i) {
    score = std::isfinite(score) ? score + 0.0f : -FLT_MAX; // -0 + 0 is 0

    // the bits of a float in the order of the numbers
    uint32_t bits;
    memcpy(&bits, &score, sizeof(bits));
    bits = bits & 0x80000000 ? ~bits : bits | 0x80000000;

    return (uint64_t) pinned << 63 | (uint64_t) bits << 31 | i;
}

bool capkv_select(const capkv_positions::parts & parts, int64_t n, const float * score, const std::vector<bool> & pinned, int32_t * keep) {
    const uint32_t n_sink = parts.n_sink, n_mid = parts.n_mid, n_recent = parts.n_recent;

    auto rank_of = [&](int64_t i) { return capkv_rank(score[i], !pinned.empty() && pinned[i], i); };

    std::vector<uint64_t> rank;
    rank.reserve(n - n_sink - n_recent);

    int64_t n_pinned = 0;
    for (int64_t i = n_sink; i < n - n_recent; ++i) {
        rank.push_back(rank_of(i));
        n_pinned += rank.back() >> 63;
    }

    std::iota(keep, keep + n_sink, 0);
    keep += n_sink;

    if (n_mid > 0) {
        std::nth_element(rank.begin(), rank.begin() + (n_mid - 1), rank.end(), std::greater<uint64_t>());

        for (int64_t i = n_sink; i < n - n_recent; ++i) {
            if (rank_of(i) >= rank[n_mid - 1]) {
                *keep++ = i;
            }
        }
    }

    std::iota(keep, keep + n_recent, n - n_recent);

    return n_pinned <= n_mid;
}
