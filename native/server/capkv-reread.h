#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_set>
#include <vector>

// how many tokens of a prompt are read although the slot had read them before: those up to the first change that are not reused, and of
// the text after it each run of 16 or more that the slot's text has somewhere, too. A shorter run may be there by chance
//   old:      the slot's text                          [n_old]
//   prompt:   the text that comes                      [n_prompt]
//   n_common: tokens at the start that both have
//   n_past:   tokens at the start that are reused, at most n_common
static inline size_t capkv_count_reread(
        const std::vector<int32_t> & old, const std::vector<int32_t> & prompt, size_t n_common, size_t n_past) {
    const size_t n_run = 16;

    size_t n = n_common - n_past;
    if (old.size() < n_common + n_run || prompt.size() < n_common + n_run) {
        return n;
    }

    // runs as bytes, in the two texts themselves
    const auto run_at = [n_run](const std::vector<int32_t> & text, size_t i) {
        return std::string_view(reinterpret_cast<const char *>(text.data() + i), n_run*sizeof(int32_t));
    };

    std::unordered_set<std::string_view> runs;
    for (size_t i = n_common; i + n_run <= old.size(); ++i) {
        runs.insert(run_at(old, i));
    }

    size_t counted = n_common; // all tokens before are
    for (size_t i = n_common; i + n_run <= prompt.size(); ++i) {
        if (runs.count(run_at(prompt, i))) {
            n += i + n_run - std::max(i, counted);
            counted = i + n_run;
        }
    }
    return n;
}
