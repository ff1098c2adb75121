#pragma once

// what evictions ask of the devices: nodes, bytes that cross, waits

#include "tiny-calls.h"

#include "../ggml/src/ggml-impl.h"

#include <functional>
#include <map>

struct tiny_counts {
    int n_graphs = 0; // of evictions
    int n_splits = 0; // parts that these were computed in, one after the other, each on one device
    int n_waits  = 0; // for a device that computes

    std::map<ggml_backend_dev_t, int> n_nodes; // computed on each device

    size_t n_get  = 0; // bytes read from memory of devices
    size_t n_set  = 0; // bytes of inputs written to it
    size_t n_copy = 0; // bytes that the scheduler copies to where they are needed: from the host to a device, back, or between devices

    int nodes(ggml_backend_dev_t dev) const {
        const auto it = n_nodes.find(dev);
        return it == n_nodes.end() ? 0 : it->second;
    }
};

static tiny_counts g_counts;

static bool g_in_eviction = false; // from the allocation of a graph to the wait for it

static std::set<ggml_backend_t> g_busy; // backends of devices that compute

// called with each graph of an eviction before it is computed
static std::function<void(ggml_backend_sched_t sched, ggml_cgraph * gf)> g_on_graph;

static inline bool tiny_is_away(const ggml_tensor * t) {
    ggml_backend_buffer_t buf = t->view_src ? t->view_src->buffer : t->buffer;
    return buf && !ggml_backend_buffer_is_host(buf);
}

// the nodes of a graph of an eviction that are computed, and where
template <typename F>
static void tiny_each_node(ggml_backend_sched_t sched, ggml_cgraph * gf, F && f) {
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        auto * node = ggml_graph_node(gf, i);
        if (!tiny_is_view(node)) {
            auto * backend = ggml_backend_sched_get_tensor_backend(sched, node);
            CHECK(backend);
            f(node, ggml_backend_get_device(backend));
        }
    }
}

// a scheduler puts copies in the place of sources that have to be copied
extern "C" bool ggml_backend_sched_alloc_graph(ggml_backend_sched_t sched, ggml_cgraph * gf) {
    REAL(ggml_backend_sched_alloc_graph);

    if (!g_scheds.count(sched)) {
        return ggml_backend_sched_alloc_graph_real(sched, gf);
    }

    // by node: a backend may change their order (Metal and Vulkan do)
    std::map<const ggml_tensor *, std::vector<const ggml_tensor *>> srcs;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const auto * node = ggml_graph_node(gf, i);
        srcs[node].assign(node->src, node->src + GGML_MAX_SRC);
    }

    g_in_eviction = true;
    const bool res = ggml_backend_sched_alloc_graph_real(sched, gf);

    std::set<const ggml_tensor *> copies;
    for (const auto & [node, before] : srcs) {
        for (int i = 0; i < GGML_MAX_SRC; ++i) {
            const auto * src = node->src[i];
            if (src != before[i] && copies.insert(src).second) {
                g_counts.n_copy += ggml_nbytes(src);
            }
        }
    }
    return res;
}

extern "C" ggml_status ggml_backend_sched_graph_compute_async(ggml_backend_sched_t sched, ggml_cgraph * gf) {
    REAL(ggml_backend_sched_graph_compute_async);

    if (g_scheds.count(sched)) {
        g_counts.n_graphs++;
        g_counts.n_splits += ggml_backend_sched_get_n_splits(sched);
        tiny_each_node(sched, gf, [](ggml_tensor *, ggml_backend_dev_t dev) { g_counts.n_nodes[dev]++; });
        if (g_on_graph) {
            g_on_graph(sched, gf);
        }
    }
    return ggml_backend_sched_graph_compute_async_real(sched, gf);
}

extern "C" ggml_status ggml_backend_graph_compute_async(ggml_backend_t backend, ggml_cgraph * gf) {
    REAL(ggml_backend_graph_compute_async);

    if (ggml_backend_dev_type(ggml_backend_get_device(backend)) != GGML_BACKEND_DEVICE_TYPE_CPU) {
        g_busy.insert(backend);
    }
    return ggml_backend_graph_compute_async_real(backend, gf);
}

extern "C" void ggml_backend_synchronize(ggml_backend_t backend) {
    REAL(ggml_backend_synchronize);

    const bool is_busy = g_busy.erase(backend) > 0;
    g_counts.n_waits += g_in_eviction && is_busy;
    ggml_backend_synchronize_real(backend);
}

extern "C" void ggml_backend_sched_synchronize(ggml_backend_sched_t sched) {
    REAL(ggml_backend_sched_synchronize);

    ggml_backend_sched_synchronize_real(sched);
    g_in_eviction = g_in_eviction && !g_scheds.count(sched);
}

extern "C" void ggml_backend_tensor_get_async(ggml_backend_t backend, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    REAL(ggml_backend_tensor_get_async);

    g_counts.n_get += g_in_eviction && tiny_is_away(t) ? size : 0;
    ggml_backend_tensor_get_async_real(backend, t, data, offset, size);
}

extern "C" void ggml_backend_tensor_set_async(ggml_backend_t backend, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    REAL(ggml_backend_tensor_set_async);

    g_counts.n_set += g_in_eviction && tiny_is_away(t) ? size : 0;
    ggml_backend_tensor_set_async_real(backend, t, data, offset, size);
}

// as when a graph's input lies on the host, or the scheduler copies it
extern "C" void ggml_backend_tensor_set(ggml_tensor * t, const void * data, size_t offset, size_t size) {
    REAL(ggml_backend_tensor_set);

    g_counts.n_set += g_in_eviction && tiny_is_away(t) ? size : 0;
    ggml_backend_tensor_set_real(t, data, offset, size);
}
