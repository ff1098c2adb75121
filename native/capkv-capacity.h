#pragma once

#include "kernels/cholesky.h"

#include <cstdint>
#include <memory>
#include <vector>

// of a layer, in nats: of the entries that an eviction kept, and of all that were there
struct capkv_capacity {
    double kept = 0.0;
    double all  = 0.0;

    float share() const { return all > 0.0 ? (float) (kept/all) : 1.0f; }
};

// what it is computed from: sum_i w_i v_i v_i^T over the same entries, for each KV head
struct capkv_capacity_sums {
    int64_t d = 0;

    capkv_ridge ridge = {};

    std::vector<float> kept; // [d, d, n_head_kv]
    std::vector<float> all;  // [d, d, n_head_kv]
};

// those of all layers at the last eviction of a stream. The sums come with the scores; the d^3 operations for each of them are left
// until someone asks
class capkv_capacities {
public:
    capkv_capacities() = default;

    explicit capkv_capacities(size_t n_layers) : values(n_layers) {}

    // as a saved state has them
    explicit capkv_capacities(std::vector<capkv_capacity> && values) : values(std::move(values)) {}

    explicit capkv_capacities(std::vector<capkv_capacity_sums> && sums) :
        values(sums.size()), sums(std::make_shared<const std::vector<capkv_capacity_sums>>(std::move(sums))) {}

    const std::vector<capkv_capacity> & get() const;

    // bytes that the sums take until then
    size_t n_bytes() const;

private:
    mutable std::vector<capkv_capacity> values; // [n_layers]

    mutable std::shared_ptr<const std::vector<capkv_capacity_sums>> sums; // NULL once the values are computed
};
