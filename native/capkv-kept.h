#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Which of n entries each KV head of a layer keeps: a bit for each. Lists of them would take half a gigabyte for a long cache of many layers
class capkv_kept {
public:
    capkv_kept(int64_t n, int64_t n_head_kv) : heads(n_head_kv, std::vector<bool>(n)) {}

    void set(int64_t head, const std::vector<int32_t> & entries) {
        for (const int32_t i : entries) {
            heads[head][i] = true;
        }
    }

    // ascending
    std::vector<int32_t> kept   (int64_t head) const { return list(head, true); }
    std::vector<int32_t> dropped(int64_t head) const { return list(head, false); }

private:
    std::vector<std::vector<bool>> heads;

    std::vector<int32_t> list(int64_t head, bool stays) const {
        const auto & bits = heads[head];

        std::vector<int32_t> res;
        for (size_t i = 0; i < bits.size(); ++i) {
            if (bits[i] == stays) {
                res.push_back(i);
            }
        }
        return res;
    }
};
