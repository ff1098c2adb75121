#include "capkv-options.h"

#include "capkv-budget.h"
#include "capkv-error.h"
#include "capkv-number.h"
#include "policies/policy.h"

#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static constexpr double CAPKV_N_MAX = 2147483647; // llama.cpp counts positions in int32_t

// one option; parsing, printing, checking, defaults, the environment, Python's keywords and the documents' table follow from it
struct capkv_row {
    const char * name;
    capkv_type   type;
    size_t       offset;        // of its field in capkv_params
    double       least;
    double       most;
    const char * default_value; // as text
    bool         open;          // the field is CAPKV_UNSET unless given; a default that is no number ("auto") can be given too
    const char * metavar;
    const char * help;
    const char * range;         // what is allowed, %s = "LEAST to MOST"
};

#define CAPKV_AT(field) offsetof(capkv_params, field)

// to add an option: one row here, and one field in capkv_params
static const capkv_row capkv_rows[] = {
//    name        type               field                 least, most        default  open   metavar
    { "budget",   CAPKV_TYPE_BUDGET, CAPKV_AT(n_budget),   0, CAPKV_N_MAX,    "0",     false, "N",
      "tokens kept per KV head",
      "0 (off), a number of tokens below 2147483648, a memory size (256MiB) or a share of the context (10%)" },
    { "policy",   CAPKV_TYPE_POLICY, CAPKV_AT(policy),     0, 0,              "capkv", false, "NAME",
      "what decides which tokens stay",
      "a policy's name" },
    { "sink",     CAPKV_TYPE_UINT,   CAPKV_AT(n_sink),     0, CAPKV_N_MAX,    "4",     false, "N",
      "first tokens, always kept",
      "%s" },
    { "recent",   CAPKV_TYPE_UINT,   CAPKV_AT(n_recent),   0, CAPKV_N_MAX,    "64",    true,  "N",
      "last tokens, always kept",
      "%s (unless given, at most half of the budget)" },
    { "headroom", CAPKV_TYPE_UINT,   CAPKV_AT(n_headroom), 0, CAPKV_N_MAX,    "auto",  true,  "N",
      "cells beyond the budget",
      "auto (n_batch, or a quarter of the budget if that is more), or a number of at least n_batch" },
    { "tau",      CAPKV_TYPE_FLOAT,  CAPKV_AT(tau),        0, 100,            "5.0",   false, "X",
      "sharpness of the policy capkv-ref",
      "%s" },
    { "novelty",  CAPKV_TYPE_FLOAT,  CAPKV_AT(novelty),    0, 100,            "0.25",  false, "X",
      "weight of key novelty in the policy capkv",
      "%s" },
    { "reindex",  CAPKV_TYPE_CHOICE, CAPKV_AT(reindex),    0, 2,              "auto",  false, "auto|never|always",
      "when kept entries get new RoPE positions, auto is before the trained length is passed",
      "auto, never or always" },
    { "seed",     CAPKV_TYPE_UINT,   CAPKV_AT(seed),       0, UINT32_MAX,     "1",     false, "N",
      "seed of the sample of queries and of the policy random",
      "%s" },
    { "type",     CAPKV_TYPE_CHOICE, CAPKV_AT(type),       0, 7,              "q8_0",  false, "f32|f16|bf16|q8_0|q5_1|q5_0|q4_1|q4_0",
      "type of K and V where neither of theirs is given",
      "f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0" },
    { "untested", CAPKV_TYPE_SWITCH, CAPKV_AT(untested),   0, 1,              "0",     false, "",
      "run architectures that were never tried with evictions",
      "0 or 1" },
};

static constexpr size_t CAPKV_N_ROWS = sizeof(capkv_rows)/sizeof(capkv_rows[0]);

static const capkv_row & capkv_find_row(const std::string & name) {
    std::string names;
    for (const auto & row : capkv_rows) {
        if (name == row.name) {
            return row;
        }
        names += (names.empty() ? "" : ", ") + std::string(row.name);
    }
    throw capkv_error("unknown option kv " + name + ": allowed are " + names);
}

static void * capkv_field(capkv_params & params, const capkv_row & row) {
    return (char *) &params + row.offset;
}

static const void * capkv_field(const capkv_params & params, const capkv_row & row) {
    return (const char *) &params + row.offset;
}

static std::string capkv_env(const capkv_row & row) {
    std::string res = "LLAMA_ARG_KV_";
    for (const char * c = row.name; *c; ++c) {
        res += (char) (*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
    }
    return res;
}

static std::string capkv_range(const capkv_row & row) {
    const auto text = [&](double bound) {
        return row.type == CAPKV_TYPE_FLOAT ? capkv_write_number((float) bound) : std::to_string((uint64_t) bound);
    };

    std::string  res = row.range;
    const size_t at  = res.find("%s");
    return at == std::string::npos ? res : res.replace(at, 2, text(row.least) + " to " + text(row.most));
}

static std::string capkv_policy_names() {
    std::string res;
    for (size_t i = 0; i < capkv_n_policies(); ++i) {
        res += (i ? ", " : "") + std::string(capkv_get_policy(i)->name);
    }
    return res;
}

// the words of a choice
static std::vector<std::string> capkv_words(const capkv_row & row) {
    std::vector<std::string> res(1);
    for (const char * c = row.metavar; *c; ++c) {
        if (*c == '|') {
            res.emplace_back();
        } else {
            res.back() += *c;
        }
    }
    return res;
}

[[noreturn]] static void capkv_refuse(const capkv_row & row, const std::string & value, const std::string & range) {
    throw capkv_error("kv_" + std::string(row.name) + " = " + (value.empty() ? "''" : value) + ": allowed is " + range);
}

//
// one option from text
//

// a number of the row's range, without a unit
static double capkv_parse_number(const capkv_row & row, const std::string & value) {
    double      res;
    std::string rest;
    if (!capkv_read_number(value, res, rest) || !rest.empty() || res < row.least || res > row.most) {
        capkv_refuse(row, value, capkv_range(row));
    }
    return res;
}

static uint32_t capkv_parse_uint(const capkv_row & row, const std::string & value) {
    if (row.open && value == row.default_value && !isdigit((unsigned char) value[0])) {
        return CAPKV_UNSET;
    }
    const double res = capkv_parse_number(row, value);
    if (res != std::floor(res)) {
        capkv_refuse(row, value, capkv_range(row));
    }
    return (uint32_t) res;
}

static uint32_t capkv_parse_choice(const capkv_row & row, const std::string & value) {
    const auto words = capkv_words(row);
    for (size_t i = 0; i < words.size(); ++i) {
        if (words[i] == value) {
            return (uint32_t) i;
        }
    }
    capkv_refuse(row, value, capkv_range(row));
}

void capkv_params_set_or_throw(capkv_params & params, const std::string & name, const std::string & value) {
    const auto & row = capkv_find_row(name);

    void * field = capkv_field(params, row);

    switch (row.type) {
        case CAPKV_TYPE_UINT:
        case CAPKV_TYPE_SWITCH:
            *(uint32_t *) field = capkv_parse_uint(row, value);
            break;
        case CAPKV_TYPE_FLOAT:
            *(float *) field = (float) capkv_parse_number(row, value);
            break;
        case CAPKV_TYPE_POLICY:
            if (!capkv_policy_find(value)) {
                capkv_refuse(row, value, "one of " + capkv_policy_names());
            }
            snprintf((char *) field, sizeof(params.policy), "%s", value.c_str());
            break;
        case CAPKV_TYPE_BUDGET: {
            std::string range = capkv_range(row);
            if (!capkv_budget_read(value, params, range)) {
                capkv_refuse(row, value, range);
            }
        } break;
        case CAPKV_TYPE_CHOICE:
            *(uint32_t *) field = capkv_parse_choice(row, value);
            break;
    }
}

//
// one option as text
//

static std::string capkv_params_text(const capkv_params & params, const capkv_row & row) {
    const void * field = capkv_field(params, row);

    switch (row.type) {
        case CAPKV_TYPE_UINT:
        case CAPKV_TYPE_SWITCH: {
            const uint32_t val = *(const uint32_t *) field;
            return row.open && val == CAPKV_UNSET ? row.default_value : std::to_string(val);
        }
        case CAPKV_TYPE_FLOAT:
            return capkv_write_number(*(const float *) field);
        case CAPKV_TYPE_POLICY:
            return std::string((const char *) field, strnlen((const char *) field, sizeof(params.policy)));
        case CAPKV_TYPE_BUDGET:
            return capkv_budget_write(params);
        case CAPKV_TYPE_CHOICE: {
            const auto     words = capkv_words(row);
            const uint32_t val   = *(const uint32_t *) field;
            return val < words.size() ? words[val] : std::to_string(val); // a number that is no word is refused when it is checked
        }
    }
    return "";
}

//
// all options
//

capkv_params capkv_options_default() {
    capkv_params res = {};

    for (const auto & row : capkv_rows) {
        if (row.open) {
            *(uint32_t *) capkv_field(res, row) = CAPKV_UNSET;
        } else {
            capkv_params_set_or_throw(res, row.name, row.default_value);
        }
    }

    return res;
}

uint32_t capkv_options_open_default(const char * name) {
    const auto & row = capkv_find_row(name);
    return capkv_parse_uint(row, row.default_value);
}

void capkv_options_check_or_throw(const capkv_params & params) {
    capkv_params copy = params;
    for (const auto & row : capkv_rows) {
        capkv_params_set_or_throw(copy, row.name, capkv_params_text(params, row));
    }
}

capkv_params capkv_options_from_env() {
    capkv_params res = capkv_options_default();

    for (const auto & row : capkv_rows) {
        const std::string env = capkv_env(row);

        const char * value = getenv(env.c_str());
        if (value) {
            try {
                capkv_params_set_or_throw(res, row.name, value);
            } catch (const capkv_error & err) {
                throw capkv_error(std::string(err.what()) + " (from the environment variable " + env + ")");
            }
        }
    }

    return res;
}

//
// C API
//

capkv_params capkv_default_params(void) {
    return capkv_guard(capkv_params {}, [] { return capkv_options_default(); });
}

size_t capkv_n_options(void) {
    return CAPKV_N_ROWS;
}

// what capkv_get_option() points to
struct capkv_option_table {
    std::string  env    [CAPKV_N_ROWS];
    std::string  range  [CAPKV_N_ROWS];
    capkv_option options[CAPKV_N_ROWS];

    capkv_option_table() {
        for (size_t i = 0; i < CAPKV_N_ROWS; ++i) {
            const auto & row = capkv_rows[i];

            env[i]     = capkv_env(row);
            range[i]   = capkv_range(row);
            options[i] = { row.name, row.type, env[i].c_str(), row.metavar, row.default_value, range[i].c_str(), row.help };
        }
    }
};

const capkv_option * capkv_get_option(size_t i) {
    return capkv_guard((const capkv_option *) nullptr, [&]() -> const capkv_option * {
        static const capkv_option_table table;
        return i < CAPKV_N_ROWS ? &table.options[i] : nullptr;
    });
}

int32_t capkv_params_get(const capkv_params * params, const char * name, char * text, int32_t n_max) {
    return capkv_guard(-1, [&] {
        if (!params || !name) {
            throw capkv_error("capkv_params_get: NULL is not allowed");
        }
        const std::string res = capkv_params_text(*params, capkv_find_row(name));
        if (text && n_max > 0) {
            snprintf(text, n_max, "%s", res.c_str());
        }
        return (int32_t) res.size();
    });
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

bool capkv_get_env(capkv_params * params) {
    return capkv_guard(false, [&] {
        if (!params) {
            throw capkv_error("capkv_get_env: NULL is not allowed");
        }
        *params = capkv_options_from_env();
        return true;
    });
}

bool capkv_set_env(const char * name, const char * value) {
    return capkv_guard(false, [&] {
        if (!name || !value) {
            throw capkv_error("capkv_set_env: NULL is not allowed");
        }
        capkv_params params = capkv_options_default();
        capkv_params_set_or_throw(params, name, value);

        const std::string env = capkv_env(capkv_find_row(name));
#ifdef _WIN32
        const int err = _putenv_s(env.c_str(), value);
#else
        const int err = setenv(env.c_str(), value, 1);
#endif
        if (err != 0) {
            throw capkv_error("capkv_set_env: the environment variable " + env + " cannot be set");
        }
        return true;
    });
}
