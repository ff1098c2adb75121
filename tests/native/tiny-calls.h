#pragma once

// calls of ggml that a test takes in place of ggml, and the schedulers of evictions among those of batches

#include "tiny-model.h"

#include <dlfcn.h>

#include <set>

// the libraries call the functions below in place of ggml's; real() finds ggml's own, to pass the call on
template <typename F>
static F real(const char * name) {
    return (F) dlsym(RTLD_NEXT, name);
}

#define REAL(name) static const auto name##_real = real<decltype(&name)>(#name)

// the schedulers of evictions: unlike those of batches, they move no operation to another device
static std::set<ggml_backend_sched_t> g_scheds;

extern "C" ggml_backend_sched_t ggml_backend_sched_new(
        ggml_backend_t * backends, ggml_backend_buffer_type_t * bufts, int n_backends, size_t graph_size, bool parallel, bool op_offload) {
    REAL(ggml_backend_sched_new);

    const auto sched = ggml_backend_sched_new_real(backends, bufts, n_backends, graph_size, parallel, op_offload);
    if (op_offload) {
        g_scheds.erase(sched);
    } else {
        g_scheds.insert(sched);
    }
    return sched;
}
