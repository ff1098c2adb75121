#include "capkv-error.h"

// the last error is kept per thread, as errno is
static thread_local std::string g_last_error;

void capkv_set_last_error(const char * msg) noexcept {
    try {
        g_last_error = msg;
    } catch (const std::bad_alloc &) {
        g_last_error.clear();
    }
}

const char * capkv_last_error(void) {
    return g_last_error.c_str();
}
