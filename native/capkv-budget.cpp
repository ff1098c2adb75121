#include "capkv-budget.h"

#include "capkv-number.h"

#include <cmath>

struct capkv_unit {
    const char * name;
    uint64_t     n_bytes;
};

// ascending
static const capkv_unit capkv_units[] = {
    { "B", 1 }, { "KB", 1000 }, { "KiB", 1024 }, { "MB", 1000000 }, { "MiB", 1024*1024 }, { "GB", 1000000000 }, { "GiB", 1024*1024*1024 },
};

static const capkv_unit * capkv_find_unit(const std::string & name) {
    for (const auto & unit : capkv_units) {
        if (name == unit.name) {
            return &unit;
        }
    }
    return nullptr;
}

bool capkv_budget_read(const std::string & value, capkv_params & params, std::string & range) {
    double      number;
    std::string unit;
    if (!capkv_read_number(value, number, unit)) {
        return false;
    }

    uint32_t n_budget     = 0;
    uint64_t budget_bytes = 0;
    float    budget_share = 0.0f;

    if (unit.empty()) {
        if (number < 0 || number > INT32_MAX || number != std::floor(number)) {
            return false;
        }
        n_budget = (uint32_t) number;
    } else if (unit == "%") {
        if (number <= 0 || number > 100) {
            range = "above 0% and at most 100%";
            return false;
        }
        budget_share = (float) (number/100);
    } else {
        const auto * u = capkv_find_unit(unit);
        if (!u) {
            return false;
        }
        if (number <= 0 || number*u->n_bytes >= 1e15) {
            range = "above 0 and below 1e15 bytes";
            return false;
        }
        budget_bytes = (uint64_t) (number*u->n_bytes);
    }

    params.n_budget     = n_budget;
    params.budget_bytes = budget_bytes;
    params.budget_share = budget_share;

    return true;
}

std::string capkv_budget_write(const capkv_params & params) {
    if (params.budget_bytes > 0) {
        std::string res;
        for (const auto & unit : capkv_units) {
            if (params.budget_bytes % unit.n_bytes == 0) {
                res = std::to_string(params.budget_bytes/unit.n_bytes) + unit.name; // the largest unit that leaves no rest
            }
        }
        return res;
    }
    if (params.budget_share != 0.0f) {
        return capkv_write_number(params.budget_share, 100) + "%";
    }
    return std::to_string(params.n_budget);
}
