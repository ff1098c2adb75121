#include "capkv-params.h"

#include "capkv-options.h"

#include <algorithm>

bool capkv_params_on(const capkv_params & params) {
    return params.n_budget > 0 || params.budget_bytes > 0 || params.budget_share > 0.0f;
}

void capkv_params_check_or_throw(const capkv_params & params) {
    if (params.n_budget > 0) {
        // a window that was not given follows the budget: at the smallest budget it is as long as the sinks
        const uint64_t n_recent = params.n_recent == CAPKV_UNSET ? std::min(capkv_options_open_default("recent"), params.n_sink) : params.n_recent;
        const uint64_t n_min    = (uint64_t) params.n_sink + n_recent + 1;

        if (params.n_budget < n_min) {
            throw capkv_error("kv_budget = " + std::to_string(params.n_budget) + ": allowed is 0 (off) or at least kv_sink + kv_recent + 1 = " +
                    std::to_string(n_min));
        }
    }

    capkv_options_check_or_throw(params);
}

void capkv_params_resolve(capkv_params & params, uint32_t n_ctx_seq, uint32_t n_batch, size_t bytes_per_tok) {
    if (params.budget_bytes > 0) {
        const uint64_t n = bytes_per_tok > 0 ? params.budget_bytes/bytes_per_tok : 0;
        if (n == 0 || n > INT32_MAX) {
            throw capkv_error("kv_budget = " + std::to_string(params.budget_bytes) + " bytes: allowed is at least the " +
                    std::to_string(bytes_per_tok) + " bytes of one token");
        }
        params.n_budget = (uint32_t) n;
    } else if (params.budget_share > 0.0f) {
        params.n_budget = std::max<uint32_t>(1, (uint32_t) ((double) params.budget_share*n_ctx_seq));
    }

    params.budget_bytes = 0;
    params.budget_share = 0.0f;

    // before the window is set: a budget that is too small is told the least that is allowed
    capkv_params_check_or_throw(params);

    if (params.n_recent == CAPKV_UNSET) {
        params.n_recent = std::min(capkv_options_open_default("recent"), params.n_budget/2);
    }
    if (params.n_headroom == CAPKV_UNSET) {
        // an eviction scores all cells: with little room for each of them, small batches would spend most of their time on that
        params.n_headroom = std::max(n_batch, params.n_budget/4);
    }

    if (params.n_headroom < n_batch) {
        throw capkv_error("kv_headroom = " + std::to_string(params.n_headroom) + ": allowed is at least n_batch = " + std::to_string(n_batch) +
                " (a whole batch has to find room after an eviction)");
    }
}

//
// C API
//

bool capkv_params_check(const capkv_params * params) {
    return capkv_guard(false, [&] {
        if (!params) {
            throw capkv_error("capkv_params_check: NULL is not allowed");
        }
        capkv_params_check_or_throw(*params);
        return true;
    });
}
