#pragma once

#include "capkv.h"

#include <new>
#include <stdexcept>
#include <string>

// an option that is not allowed, or a model or context that cannot have a budget; the message is for the user
struct capkv_error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// what capkv_last_error() returns on this thread from now on
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
