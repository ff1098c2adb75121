#pragma once

// the memory estimate of llama.cpp's tools and a context with a budget

#include "capkv.h"

// lives while common_fit_params() runs. It sets a context length of 0 to one that fits, but the memory of a context with a budget does
// not depend on it, and 0 means no end there: the estimate is made with the trained length, and then it is 0 again
struct capkv_fit {
    capkv_fit(llama_context_params & cparams, uint32_t & n_ctx_min) : cparams(cparams) {
        capkv_params p;
        on = cparams.n_ctx == 0 && capkv_get_env(&p) && (p.n_budget > 0 || p.budget_bytes > 0 || p.budget_share > 0.0f);
        if (on) {
            n_ctx_min = UINT32_MAX; // no less than the whole length
        }
    }

    ~capkv_fit() {
        if (on) {
            cparams.n_ctx = 0;
        }
    }

    capkv_fit(const capkv_fit &) = delete;
    capkv_fit & operator=(const capkv_fit &) = delete;

private:
    llama_context_params & cparams;
    bool on;
};
