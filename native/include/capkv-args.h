#pragma once

// the --kv-* options for the argument parsers of llama.cpp's tools, from the one table in capkv-options.cpp

#include "capkv.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

// a parser's handlers are plain functions, so each option needs one of its own: as many as the table may have
static constexpr size_t CAPKV_N_ARGS_MAX = 16;

static inline std::string capkv_arg_flag(size_t i) {
    return std::string("--kv-") + capkv_get_option(i)->name;
}

// given without a value
static inline bool capkv_arg_is_switch(size_t i) {
    return capkv_get_option(i)->type == CAPKV_TYPE_SWITCH;
}

static inline std::string capkv_arg_help(size_t i) {
    const auto * opt = capkv_get_option(i);
    if (capkv_arg_is_switch(i)) {
        return std::string("KV cache budget: ") + opt->help;
    }
    return std::string("KV cache budget: ") + opt->help + " (default: " + opt->default_value + ")\nallowed: " + opt->range;
}

static inline void capkv_arg_set(size_t i, const std::string & value) {
    if (!capkv_set_env(capkv_get_option(i)->name, value.c_str())) {
        throw std::invalid_argument(capkv_last_error());
    }
}

// a type of K or V was given, so it is not left to a budget, also if it is f16
static inline void capkv_arg_keep_type() {
    capkv_set_env("type", "f16");
}

// the types that K and V of a context have, where a budget has chosen them; else they stay
static inline void capkv_arg_type(const llama_context * ctx, ggml_type & type_k, ggml_type & type_v) {
    capkv_params params;
    if (type_k != GGML_TYPE_F16 || type_v != GGML_TYPE_F16 || !capkv_get_params(ctx, &params)) {
        return;
    }
    char name[16];
    capkv_params_get(&params, "type", name, sizeof(name));
    for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
        const char * cur = ggml_type_name((ggml_type) type);
        if (cur && strcmp(cur, name) == 0) {
            type_k = type_v = (ggml_type) type;
        }
    }
}

// for common/arg.cpp: one common_arg per option
template <typename arg_t, typename params_t, size_t I = 0, typename F>
static void capkv_add_opts(F && add_opt) {
    if constexpr (I < CAPKV_N_ARGS_MAX) {
        if (I < capkv_n_options()) {
            static const std::string flag = capkv_arg_flag(I);

            if (capkv_arg_is_switch(I)) {
                add_opt(arg_t({ flag.c_str() }, capkv_arg_help(I),
                    [](params_t &) { capkv_arg_set(I, "1"); }).set_env(capkv_get_option(I)->env));
            } else {
                add_opt(arg_t({ flag.c_str() }, capkv_get_option(I)->metavar, capkv_arg_help(I),
                    [](params_t &, const std::string & value) { capkv_arg_set(I, value); }).set_env(capkv_get_option(I)->env));
            }

            capkv_add_opts<arg_t, params_t, I + 1>(std::forward<F>(add_opt));
        }
    } else {
        GGML_ASSERT(capkv_n_options() <= CAPKV_N_ARGS_MAX && "CAPKV_N_ARGS_MAX is less than the table has options");
    }
}

// for parsers of their own: true if argv[i] was one of the options; takes its value if it has one, exits if that is missing or not
// allowed
static inline bool capkv_parse_arg(int argc, char ** argv, int & i) {
    for (size_t j = 0; j < capkv_n_options(); ++j) {
        if (capkv_arg_flag(j) != argv[i]) {
            continue;
        }
        const bool is_switch = capkv_arg_is_switch(j);
        if (!is_switch && ++i >= argc) {
            fprintf(stderr, "error: %s needs a value: %s\n", argv[i - 1], capkv_get_option(j)->range);
            exit(1);
        }
        if (!capkv_set_env(capkv_get_option(j)->name, is_switch ? "1" : argv[i])) {
            fprintf(stderr, "error: %s\n", capkv_last_error());
            exit(1);
        }
        return true;
    }
    return false;
}

static inline void capkv_print_args() {
    for (size_t j = 0; j < capkv_n_options(); ++j) {
        const auto * opt = capkv_get_option(j);
        const std::string value = capkv_arg_is_switch(j) ? "" : std::string(" <") + opt->metavar + ">";
        printf("  %-43s %s (default: %s)\n", (capkv_arg_flag(j) + value).c_str(), opt->help, opt->default_value);
    }
}
