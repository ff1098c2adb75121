// tokens that a prompt repeats of a slot's text, against a count that compares every run with every other

#include "server/capkv-reread.h"

#include "ggml.h"

#include <cstdio>
#include <random>

static std::vector<int32_t> random_text(std::mt19937 & rng, size_t n, int32_t n_vocab) {
    std::vector<int32_t> res(n);
    for (auto & token : res) {
        token = rng() % n_vocab;
    }
    return res;
}

static std::vector<int32_t> joined(std::vector<std::vector<int32_t>> parts) {
    std::vector<int32_t> res;
    for (const auto & part : parts) {
        res.insert(res.end(), part.begin(), part.end());
    }
    return res;
}

static size_t common(const std::vector<int32_t> & a, const std::vector<int32_t> & b) {
    size_t n = 0;
    while (n < std::min(a.size(), b.size()) && a[n] == b[n]) {
        n++;
    }
    return n;
}

static size_t count_slowly(const std::vector<int32_t> & old, const std::vector<int32_t> & prompt, size_t n_common, size_t n_past) {
    std::vector<bool> seen(prompt.size(), false);
    for (size_t i = n_common; i + 16 <= prompt.size(); ++i) {
        for (size_t j = n_common; j + 16 <= old.size(); ++j) {
            if (std::equal(prompt.begin() + i, prompt.begin() + i + 16, old.begin() + j)) {
                std::fill(seen.begin() + i, seen.begin() + i + 16, true);
            }
        }
    }
    return n_common - n_past + std::count(seen.begin(), seen.end(), true);
}

static void expect(size_t found, size_t expected, const char * what) {
    if (found != expected) {
        fprintf(stderr, "%s: %zu tokens, expected %zu\n", what, found, expected);
        GGML_ASSERT(false && "wrong number of tokens that are read again");
    }
}

int main() {
    std::mt19937 rng(1);

    const auto a = random_text(rng, 300, 1000);
    const auto b = random_text(rng, 200, 1000);
    const auto x = random_text(rng, 15, 1000);
    const auto y = random_text(rng, 40, 1000);

    const auto count = [](const std::vector<int32_t> & old, const std::vector<int32_t> & prompt, size_t n_past) {
        return capkv_count_reread(old, prompt, common(old, prompt), n_past);
    };

    expect(count(a, joined({a, b}), 300),                0, "a text that goes on");
    expect(count(a, joined({a, b}), 0),                300, "a text that goes on and is not reused");
    expect(count(a, b, 0),                               0, "another text");
    expect(count({}, a, 0),                              0, "a first text");
    expect(count(a, {}, 0),                              0, "no text");
    expect(count(joined({a, x, b}), joined({a, y, b}), 300),        200, "a part of another length was edited");
    expect(count(joined({a, x, b}), joined({y, a, x, b}), 0),       515, "something was put in front");
    expect(count(joined({a, x}), joined({y, x}), 0),                  0, "a run that is too short");
    expect(count(joined({a, b}), joined({a, x, b, x, b}), 300),     400, "a part that comes twice");

    for (int i = 0; i < 300; ++i) {
        const auto old = random_text(rng, rng() % 120, 2);
        auto prompt = old;
        for (int j = rng() % 4; j > 0 && !prompt.empty(); --j) {
            const size_t at = rng() % prompt.size();
            rng() % 2 ? (void) prompt.erase(prompt.begin() + at) : (void) prompt.insert(prompt.begin() + at, 7);
        }
        const size_t n_common = common(old, prompt);
        const size_t n_past   = n_common == 0 ? 0 : rng() % (n_common + 1);
        expect(capkv_count_reread(old, prompt, n_common, n_past), count_slowly(old, prompt, n_common, n_past), "random texts");
    }
    printf("capkv_count_reread: as counted slowly\n");
    return 0;
}
