#pragma once

#include "capkv.h"

#include <new>
#include <stdexcept>
#include <string>

// an option that is not allowed, or a model or context that cannot have a budget; the message is for the user
struct capkv_error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

bool capkv_params_on(const capkv_params & params);

// whether the tests run an architecture with evictions
bool capkv_arch_tested(const std::string & name);

// each option by itself, and the options against each other; throws capkv_error
void capkv_params_check_or_throw(const capkv_params & params);

// resolve what was left open, now that the context is known; throws capkv_error
//   n_ctx_seq:     logical context of a sequence
//   bytes_per_tok: K and V of one token in the layers that the budget governs
void capkv_params_resolve(capkv_params & params, uint32_t n_ctx_seq, uint32_t n_batch, size_t bytes_per_tok);

void capkv_set_last_error(const char * msg) noexcept;

static inline void capkv_set_last_error(const std::string & msg) noexcept {
    capkv_set_last_error(msg.c_str());
}

// the body of a function of the C API, which no exception may leave: it becomes the last error, and `failed` is returned
template <typename T, typename F>
T capkv_guard(T failed, F && body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        capkv_set_last_error("out of memory");
    } catch (const std::exception & err) {
        capkv_set_last_error(err.what());
    } catch (...) {
        capkv_set_last_error("unknown error");
    }
    return failed;
}
