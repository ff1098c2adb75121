#include "capkv-select.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

bool capkv_select(const capkv_positions::parts & parts, int64_t n, const float * score, const std::vector<bool> & pinned, int32_t * keep) {
    const uint32_t n_sink = parts.n_sink, n_mid = parts.n_mid, n_recent = parts.n_recent;

    std::vector<int32_t> cand(n - n_sink - n_recent);
    std::iota(cand.begin(), cand.end(), n_sink);

    // [beg, end) are the candidates for what the pinned entries leave over
    auto beg = cand.begin();
    auto end = cand.end();
    if (!pinned.empty()) {
        beg = std::stable_partition(beg, end, [&](int32_t i) { return pinned[i]; });
    }

    const auto last = cand.begin() + n_mid;
    const bool fits = beg <= last;
    if (!fits) {
        end = beg;
        beg = cand.begin();
    }

    auto val = [&](int32_t i) { return std::isfinite(score[i]) ? score[i] : -FLT_MAX; };

    // of equal scores the later entry stays
    std::nth_element(beg, last, end, [&](int32_t a, int32_t b) {
        return val(a) != val(b) ? val(a) > val(b) : a > b;
    });
    std::sort(cand.begin(), last);

    std::iota  (keep,                  keep + n_sink, 0);
    std::copy_n(cand.begin(), n_mid,   keep + n_sink);
    std::iota  (keep + n_sink + n_mid, keep + n_sink + n_mid + n_recent, n - n_recent);

    return fits;
}
