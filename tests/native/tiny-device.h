#pragma once

// a device for tests. It computes with the CPU, but its memory can only be accessed by its own functions: the pages are closed in between.
// A graph that uses memory of the host fails

#include "tiny-model.h"

#include "../ggml/src/ggml-backend-impl.h"
#include "../ggml/src/ggml-impl.h"

#include <sys/mman.h>
#include <unistd.h>

#include <functional>

struct tiny_device {
    // true for an operation that the device does not have
    std::function<bool(const ggml_tensor * op)> refuses = [](const ggml_tensor *) { return false; };

    // called with each graph that the device is given
    std::function<void(ggml_cgraph * gf)> looks_at = [](ggml_cgraph *) {};

    // false: its graphs are only looked at; its memory stays as it is, and open. Set before the first use
    bool computes = true;

    bool has_ours = false; // it says that it has the functions of this process as operations, as the RPC backend does

    int n_graphs = 0; // computed
    int n_open   = 0; // calls that need the pages open

    ggml_backend_t cpu = nullptr;

    std::vector<std::pair<void *, size_t>> pages;
};

static tiny_device g_tiny_device;

// while one lives, the pages of the device are open
struct tiny_device_open {
    tiny_device_open()  { if (g_tiny_device.computes && g_tiny_device.n_open++ == 0) { protect(PROT_READ | PROT_WRITE); } }
    ~tiny_device_open() { if (g_tiny_device.computes && --g_tiny_device.n_open == 0) { protect(PROT_NONE); } }

    static void protect(int mode) {
        for (const auto & p : g_tiny_device.pages) {
            CHECK(mprotect(p.first, p.second, mode) == 0);
        }
    }
};

static inline ggml_backend_buffer_type_t tiny_device_buft();
static inline ggml_backend_dev_t         tiny_device_dev();

static inline ggml_backend_buffer_t tiny_device_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    const size_t n = GGML_PAD(size + 1, (size_t) sysconf(_SC_PAGESIZE));
    void * base = mmap(nullptr, n, g_tiny_device.computes ? PROT_NONE : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    g_tiny_device.pages.push_back({ base, n });

    ggml_backend_buffer_i iface = {};
    iface.free_buffer = [](ggml_backend_buffer_t buf) {
        auto & pages = g_tiny_device.pages;
        for (auto it = pages.begin(); it != pages.end(); ++it) {
            if (it->first == buf->context) {
                munmap(it->first, it->second);
                pages.erase(it);
                break;
            }
        }
    };
    iface.get_base      = [](ggml_backend_buffer_t buf) { return buf->context; };
    iface.memset_tensor = [](ggml_backend_buffer_t, ggml_tensor * t, uint8_t value, size_t offset, size_t size) {
        tiny_device_open open;
        memset((char *) t->data + offset, value, size);
    };
    iface.set_tensor = [](ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
        tiny_device_open open;
        memcpy((char *) t->data + offset, data, size);
    };
    iface.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor * t, void * data, size_t offset, size_t size) {
        tiny_device_open open;
        memcpy(data, (const char *) t->data + offset, size);
    };
    iface.cpy_tensor = [](ggml_backend_buffer_t buf, const ggml_tensor * src, ggml_tensor * dst) {
        if (!ggml_backend_buffer_is_host(src->buffer) && src->buffer->buft != buf->buft) {
            return false;
        }
        tiny_device_open open;
        memcpy(dst->data, src->data, ggml_nbytes(src));
        return true;
    };
    iface.clear = [](ggml_backend_buffer_t buf, uint8_t value) {
        tiny_device_open open;
        memset(buf->context, value, buf->size);
    };
    return ggml_backend_buffer_init(buft, iface, base, size);
}

static inline ggml_status tiny_device_compute(ggml_backend_t, ggml_cgraph * gf) {
    auto is_here = [](const ggml_tensor * t) {
        const auto * buf = t->view_src ? t->view_src->buffer : t->buffer;
        return buf && buf->buft == tiny_device_buft();
    };
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(gf, i);
        if (tiny_is_view(node)) {
            continue;
        }
        if (node->op == GGML_OP_CUSTOM) {
            fprintf(stderr, "the device is to compute '%s', a function of this process\n", node->name);
            return GGML_STATUS_FAILED;
        }
        bool ok = is_here(node);
        for (const ggml_tensor * src : node->src) {
            ok = ok && (!src || is_here(src));
        }
        if (!ok) {
            fprintf(stderr, "the device is to compute %s '%s' with memory of the host\n", ggml_op_name(node->op), node->name);
            return GGML_STATUS_FAILED;
        }
    }
    g_tiny_device.n_graphs++;
    g_tiny_device.looks_at(gf);
    if (!g_tiny_device.computes) {
        return GGML_STATUS_SUCCESS;
    }
    tiny_device_open open;
    return ggml_backend_graph_compute(g_tiny_device.cpu, gf);
}

static inline ggml_backend_t tiny_device_init(ggml_backend_dev_t dev, const char *) {
    static ggml_guid guid = { 't', 'i', 'n', 'y' };

    auto * backend = new ggml_backend();
    backend->guid   = &guid;
    backend->device = dev;
    backend->iface.get_name      = [](ggml_backend_t) { return "TINY"; };
    backend->iface.free          = [](ggml_backend_t b) { delete b; };
    backend->iface.graph_compute = tiny_device_compute;
    backend->iface.set_tensor_async = [](ggml_backend_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
        tiny_device_open open;
        memcpy((char *) t->data + offset, data, size);
    };
    backend->iface.get_tensor_async = [](ggml_backend_t, const ggml_tensor * t, void * data, size_t offset, size_t size) {
        tiny_device_open open;
        memcpy(data, (const char *) t->data + offset, size);
    };
    return backend;
}

static inline ggml_backend_buffer_type_t tiny_device_buft() {
    static ggml_backend_buffer_type buft = [] {
        ggml_backend_buffer_type res = {};
        res.iface.get_name      = [](ggml_backend_buffer_type_t) { return "TINY"; };
        res.iface.alloc_buffer  = tiny_device_alloc;
        res.iface.get_alignment = [](ggml_backend_buffer_type_t) { return (size_t) 64; };
        res.iface.is_host       = [](ggml_backend_buffer_type_t) { return false; };
        res.device              = tiny_device_dev();
        return res;
    }();
    return &buft;
}

static inline bool tiny_device_supports(ggml_backend_dev_t, const ggml_tensor * op) {
    const bool is_ours = op->op == GGML_OP_CUSTOM || op->op == GGML_OP_MAP_CUSTOM1 || op->op == GGML_OP_MAP_CUSTOM2 || op->op == GGML_OP_MAP_CUSTOM3;
    return (!is_ours || g_tiny_device.has_ours) && !g_tiny_device.refuses(op) && ggml_backend_supports_op(g_tiny_device.cpu, op);
}

static inline ggml_backend_dev_t tiny_device_dev() {
    static ggml_backend_reg reg = [] {
        ggml_backend_reg res = { GGML_BACKEND_API_VERSION, {}, nullptr };
        res.iface.get_name         = [](ggml_backend_reg_t) { return "TINY"; };
        res.iface.get_device_count = [](ggml_backend_reg_t) { return (size_t) 1; };
        res.iface.get_device       = [](ggml_backend_reg_t, size_t) { return tiny_device_dev(); };
        return res;
    }();
    static ggml_backend_device dev = [] {
        ggml_backend_device res = { {}, &reg, nullptr };
        res.iface.get_name        = [](ggml_backend_dev_t) { return "TINY0"; };
        res.iface.get_description = [](ggml_backend_dev_t) { return "a device for tests"; };
        res.iface.get_memory      = [](ggml_backend_dev_t, size_t * free, size_t * total) { *free = *total = 1u << 30; };
        res.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
        res.iface.get_props       = [](ggml_backend_dev_t d, ggml_backend_dev_props * props) {
            *props = {};
            props->name        = d->iface.get_name(d);
            props->description = d->iface.get_description(d);
            props->type        = d->iface.get_type(d);
            d->iface.get_memory(d, &props->memory_free, &props->memory_total);
        };
        res.iface.init_backend    = tiny_device_init;
        res.iface.get_buffer_type = [](ggml_backend_dev_t) { return tiny_device_buft(); };
        res.iface.supports_op     = tiny_device_supports;
        res.iface.supports_buft   = [](ggml_backend_dev_t, ggml_backend_buffer_type_t buft) { return buft == tiny_device_buft(); };
        return res;
    }();
    return &dev;
}

// from here on it is one of ggml's devices, "TINY0"
static inline void tiny_device_register() {
    g_tiny_device.cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    CHECK(g_tiny_device.cpu);

    // tiny tensors: a thread more only waits
    auto * reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(g_tiny_device.cpu));
    auto * set = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    CHECK(set);
    set(g_tiny_device.cpu, 1);

    ggml_backend_register(tiny_device_dev()->reg);
}
