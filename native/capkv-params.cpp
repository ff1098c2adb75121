#include "capkv-params.h"

#include "capkv-number.h"
#include "policies/policy.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// the last error is kept per thread, as errno is
static thread_local std::string g_last_error;

static constexpr uint32_t CAPKV_UNSET     = UINT32_MAX;
static constexpr uint32_t CAPKV_N_MAX     = 1u << 31;
static constexpr uint32_t CAPKV_N_RECENT  = 64;

// the one declaration of every option; capkv_default_params() has the same defaults as numbers
static const capkv_option capkv_options[] = {
    { "budget",   "LLAMA_ARG_KV_BUDGET",   "N",    "0",
      "0 (off), a number of tokens below 2147483648, a memory size (256MiB) or a share of the context (10%)",
      "tokens kept per KV head" },
    { "policy",   "LLAMA_ARG_KV_POLICY",   "NAME", "capkv",
      "a policy's name",
      "what decides which tokens stay" },
    { "sink",     "LLAMA_ARG_KV_SINK",     "N",    "4",
      "0 to 2147483647",
      "first tokens, always kept" },
    { "recent",   "LLAMA_ARG_KV_RECENT",   "N",    "64",
      "0 to 2147483647 (unless given, at most half of the budget)",
      "last tokens, always kept" },
    { "headroom", "LLAMA_ARG_KV_HEADROOM", "N",    "auto",
      "auto (n_batch, or a quarter of the budget if that is more), or a number of at least n_batch",
      "cells beyond the budget" },
    { "tau",      "LLAMA_ARG_KV_TAU",      "X",    "5.0",
      "0 to 100",
      "sharpness of the policy capkv-ref" },
    { "novelty",  "LLAMA_ARG_KV_NOVELTY",  "X",    "0.25",
      "0 to 100",
      "weight of key novelty in the policy capkv" },
    { "seed",     "LLAMA_ARG_KV_SEED",     "N",    "1",
      "0 to 4294967295",
      "of the sample of queries and of the policy random" },
    { "untested", "LLAMA_ARG_KV_UNTESTED", "",     "0",
      "0 or 1",
      "run architectures that were never tried with evictions" },
};

size_t capkv_n_options(void) {
    return sizeof(capkv_options)/sizeof(capkv_options[0]);
}

const capkv_option * capkv_get_option(size_t i) {
    return i < capkv_n_options() ? &capkv_options[i] : nullptr;
}

static const capkv_option & capkv_find_option(const std::string & name) {
    std::string names;
    for (const auto & opt : capkv_options) {
        if (name == opt.name) {
            return opt;
        }
        names += (names.empty() ? "" : ", ") + std::string(opt.name);
    }
    throw capkv_error("unknown option kv " + name + ": allowed are " + names);
}

static std::string capkv_policy_names() {
    std::string res;
    for (size_t i = 0; i < capkv_n_policies(); ++i) {
        res += (i ? ", " : "") + std::string(capkv_get_policy(i)->name);
    }
    return res;
}

[[noreturn]] static void capkv_refuse(const capkv_option & opt, const std::string & value, const std::string & range) {
    throw capkv_error("kv_" + std::string(opt.name) + " = " + value + ": allowed is " + range);
}

static double capkv_parse_number(const capkv_option & opt, const std::string & value, std::string & unit) {
    double res;
    if (!capkv_read_number(value, res, unit)) {
        capkv_refuse(opt, value.empty() ? "''" : value, opt.range);
    }
    return res;
}

static uint32_t capkv_parse_uint(const capkv_option & opt, const std::string & value, double max) {
    std::string unit;
    const double res = capkv_parse_number(opt, value, unit);

    if (!unit.empty() || res < 0 || res > max || res != std::floor(res)) {
        capkv_refuse(opt, value, opt.range);
    }

    return (uint32_t) res;
}

static float capkv_parse_float(const capkv_option & opt, const std::string & value) {
    std::string unit;
    const double res = capkv_parse_number(opt, value, unit);

    if (!unit.empty() || res < 0 || res > 100) {
        capkv_refuse(opt, value, opt.range);
    }

    return (float) res;
}

static void capkv_parse_budget(const capkv_option & opt, const std::string & value, capkv_params & params) {
    static const struct { const char * unit; double factor; } units[] = {
        { "B", 1 }, { "KiB", 1024.0 }, { "MiB", 1024.0*1024 }, { "GiB", 1024.0*1024*1024 }, { "KB", 1e3 }, { "MB", 1e6 }, { "GB", 1e9 },
    };

    std::string unit;
    const double res = capkv_parse_number(opt, value, unit);

    params.n_budget     = 0;
    params.budget_bytes = 0;
    params.budget_share = 0.0f;

    if (unit.empty()) {
        if (res < 0 || res >= CAPKV_N_MAX || res != std::floor(res)) {
            capkv_refuse(opt, value, opt.range);
        }
        params.n_budget = (uint32_t) res;
        return;
    }

    if (unit == "%") {
        if (res <= 0 || res > 100) {
            capkv_refuse(opt, value, "above 0% and at most 100%");
        }
        params.budget_share = (float) (res/100);
        return;
    }

    for (const auto & u : units) {
        if (unit == u.unit) {
            if (res <= 0 || res*u.factor >= 1e15) {
                capkv_refuse(opt, value, "above 0 and below 1e15 bytes");
            }
            params.budget_bytes = (uint64_t) (res*u.factor);
            return;
        }
    }

    capkv_refuse(opt, value, opt.range);
}

void capkv_params_set_or_throw(capkv_params & params, const std::string & name, const std::string & value) {
    const auto & opt = capkv_find_option(name);

    const double n_max = (double) CAPKV_N_MAX - 1;

    if (name == "budget") {
        capkv_parse_budget(opt, value, params);
    } else if (name == "policy") {
        if (!capkv_policy_find(value)) {
            capkv_refuse(opt, value.empty() ? "''" : value, "one of " + capkv_policy_names());
        }
        snprintf(params.policy, sizeof(params.policy), "%s", value.c_str());
    } else if (name == "sink") {
        params.n_sink = capkv_parse_uint(opt, value, n_max);
    } else if (name == "recent") {
        params.n_recent = capkv_parse_uint(opt, value, n_max);
    } else if (name == "headroom") {
        params.n_headroom = value == "auto" ? CAPKV_UNSET : capkv_parse_uint(opt, value, n_max);
    } else if (name == "tau") {
        params.tau = capkv_parse_float(opt, value);
    } else if (name == "novelty") {
        params.novelty = capkv_parse_float(opt, value);
    } else if (name == "seed") {
        params.seed = capkv_parse_uint(opt, value, (double) UINT32_MAX);
    } else if (name == "untested") {
        params.untested = capkv_parse_uint(opt, value, 1);
    }
}

capkv_params capkv_default_params(void) {
    capkv_params res = {};

    strcpy(res.policy, "capkv");
    res.n_sink     = 4;
    res.n_recent   = CAPKV_UNSET; // unless given, the window follows a small budget
    res.n_headroom = CAPKV_UNSET;
    res.tau        = 5.0f;
    res.novelty    = 0.25f;
    res.seed       = 1;

    return res;
}

bool capkv_params_on(const capkv_params & params) {
    return params.n_budget > 0 || params.budget_bytes > 0 || params.budget_share > 0.0f;
}

void capkv_params_check_or_throw(const capkv_params & params) {
    // a struct can hold what no text would have set
    if (strnlen(params.policy, sizeof(params.policy)) == sizeof(params.policy) || !capkv_policy_find(params.policy)) {
        throw capkv_error("kv_policy = " + std::string(params.policy, strnlen(params.policy, sizeof(params.policy))) +
                ": allowed is one of " + capkv_policy_names());
    }
    if (params.n_budget >= CAPKV_N_MAX) {
        capkv_refuse(capkv_find_option("budget"), std::to_string(params.n_budget), capkv_find_option("budget").range);
    }
    if (!(params.budget_share >= 0.0f && params.budget_share <= 1.0f)) {
        capkv_refuse(capkv_find_option("budget"), capkv_write_number(params.budget_share*100) + "%", "above 0% and at most 100%");
    }
    if (!(params.tau >= 0.0f && params.tau <= 100.0f)) {
        capkv_refuse(capkv_find_option("tau"), capkv_write_number(params.tau), capkv_find_option("tau").range);
    }
    if (!(params.novelty >= 0.0f && params.novelty <= 100.0f)) {
        capkv_refuse(capkv_find_option("novelty"), capkv_write_number(params.novelty), capkv_find_option("novelty").range);
    }
    if (params.untested > 1) {
        capkv_refuse(capkv_find_option("untested"), std::to_string(params.untested), capkv_find_option("untested").range);
    }
    if (params.n_budget > 0) {
        // a window that was not given follows the budget: at the smallest budget it is as long as the sinks
        const uint64_t n_recent = params.n_recent == CAPKV_UNSET ? std::min(CAPKV_N_RECENT, params.n_sink) : params.n_recent;
        const uint64_t n_min    = (uint64_t) params.n_sink + n_recent + 1;

        if (params.n_budget < n_min) {
            throw capkv_error("kv_budget = " + std::to_string(params.n_budget) + ": allowed is 0 (off) or at least kv_sink + kv_recent + 1 = " +
                    std::to_string(n_min));
        }
    }
}

void capkv_params_resolve(capkv_params & params, uint32_t n_ctx_seq, uint32_t n_batch, size_t bytes_per_tok) {
    if (params.budget_bytes > 0) {
        const uint64_t n = bytes_per_tok > 0 ? params.budget_bytes/bytes_per_tok : 0;
        if (n == 0 || n >= CAPKV_N_MAX) {
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
        params.n_recent = std::min(CAPKV_N_RECENT, params.n_budget/2);
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

capkv_params capkv_params_from_env() {
    capkv_params res = capkv_default_params();

    for (const auto & opt : capkv_options) {
        const char * value = getenv(opt.env);
        if (value) {
            try {
                capkv_params_set_or_throw(res, opt.name, value);
            } catch (const capkv_error & err) {
                throw capkv_error(std::string(err.what()) + " (from the environment variable " + opt.env + ")");
            }
        }
    }

    return res;
}

void capkv_set_last_error(const char * msg) noexcept {
    try {
        g_last_error = msg;
    } catch (const std::bad_alloc &) {
        g_last_error.clear();
    }
}

//
// C API
//

const char * capkv_last_error(void) {
    return g_last_error.c_str();
}

bool capkv_params_set(capkv_params * params, const char * name, const char * value) {
    return capkv_guard(false, [&] {
        if (!params || !name || !value) {
            throw capkv_error("capkv_params_set: NULL is not allowed");
        }
        capkv_params_set_or_throw(*params, name, value);
        return true;
    });
}

bool capkv_set_env(const char * name, const char * value) {
    return capkv_guard(false, [&] {
        if (!name || !value) {
            throw capkv_error("capkv_set_env: NULL is not allowed");
        }
        capkv_params params = capkv_default_params();
        capkv_params_set_or_throw(params, name, value);

        const char * env = capkv_find_option(name).env;
#ifdef _WIN32
        const int err = _putenv_s(env, value);
#else
        const int err = setenv(env, value, 1);
#endif
        if (err != 0) {
            throw capkv_error("capkv_set_env: the environment variable " + std::string(env) + " cannot be set");
        }
        return true;
    });
}

bool capkv_params_check(const capkv_params * params) {
    return capkv_guard(false, [&] {
        if (!params) {
            throw capkv_error("capkv_params_check: NULL is not allowed");
        }
        capkv_params_check_or_throw(*params);
        return true;
    });
}
