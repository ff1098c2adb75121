#pragma once

#include "llama.h"

#include <algorithm>
#include <cstdint>
#include <vector>

// Positions that ascend for the most part, such as those of the entries of one head after the other, in two bytes each: the lower half of
// each, and the upper half where it changes
class capkv_ascending {
public:
    capkv_ascending() = default;
    explicit capkv_ascending(const std::vector<llama_pos> & pos) { append(pos); }

    void reserve(size_t n) { low.reserve(n); }

    void append(const std::vector<llama_pos> & pos) {
        for (const llama_pos p : pos) {
            const int32_t high = p >> 16;
            if (steps.empty() || steps.back().high != high) {
                steps.push_back({ low.size(), high });
            }
            low.push_back((uint16_t) p);
        }
    }

    llama_pos operator[](size_t i) const {
        auto it = std::upper_bound(steps.begin(), steps.end(), i, [](size_t i, const step & s) { return i < s.i; }) - 1;
        return (llama_pos) ((uint32_t) it->high << 16 | low[i]);
    }

    std::vector<llama_pos> get() const {
        std::vector<llama_pos> res(size());
        for (size_t i = 0; i < res.size(); ++i) {
            res[i] = (*this)[i];
        }
        return res;
    }

    size_t size()    const { return low.size(); }
    bool   empty()   const { return low.empty(); }
    size_t n_bytes() const { return low.size()*sizeof(low[0]) + steps.size()*sizeof(steps[0]); }

private:
    struct step {
        size_t  i;
        int32_t high;
    };

    std::vector<uint16_t> low;
    std::vector<step>     steps; // ascending in i
};
