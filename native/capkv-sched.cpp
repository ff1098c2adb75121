#include "capkv-sched.h"

#include "llama-context.h"
#include "llama-impl.h"

#include <unordered_set>

void capkv_outputs::add(const ggml_tensor * t) {
    if (t) {
        GGML_ASSERT(t->type == GGML_TYPE_F32 && ggml_is_contiguous(t));
        data[t].resize(ggml_nelements(t));
    }
}

size_t capkv_sched::n_tensors(ggml_cgraph * gf) {
    std::unordered_set<const ggml_tensor *> seen;

    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(gf, i);

        seen.insert(node);
        seen.insert(node->view_src);
        for (const auto * src : node->src) {
            if (src) {
                seen.insert(src);
                seen.insert(src->view_src);
            }
        }
    }

    return seen.size();
}

capkv_sched::~capkv_sched() {
    free();
}

void capkv_sched::make(llama_context * lctx, size_t n_tensors) {
    std::vector<ggml_backend_t> backends;
    for (int i = 0; i < ggml_backend_sched_get_n_backends(lctx->get_sched()); ++i) {
        backends.push_back(ggml_backend_sched_get_backend(lctx->get_sched(), i));
    }

    free();

    sched         = ggml_backend_sched_new(backends.data(), nullptr, backends.size(), n_tensors, false, false);
    n_tensors_max = n_tensors;
}

void capkv_sched::free() {
    ggml_backend_sched_free(sched);
    sched = nullptr;
}

ggml_backend_t capkv_sched::backend_of(ggml_backend_buffer_type_t buft) const {
    for (int i = 0; buft && i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (ggml_backend_sched_get_buffer_type(sched, backend) == buft) {
            return backend;
        }
    }
    return nullptr;
}

// A scheduler keeps inputs on the host and copies them, each time waiting for the device, and at most 30 for a part of a graph. And
// where a graph has layers on several backends it may compute a layer far from its cache, and copy that. So what is computed from a
// cache is put where the cache is, with its inputs. What is computed by functions of this process stays in it: the RPC backend says of
// every operation that it has it
void capkv_sched::place(ggml_cgraph * gf, const capkv_inputs & inputs) const {
    std::unordered_map<ggml_tensor *, ggml_backend_t> homes;

    auto home_of = [&](ggml_tensor * t) {
        const auto it = homes.find(t);
        if (it != homes.end()) {
            return it->second;
        }
        const ggml_tensor * owner = t->view_src ? t->view_src : t;
        return backend_of(owner->buffer ? ggml_backend_buffer_get_type(owner->buffer) : nullptr);
    };

    for (const auto & item : inputs.items) {
        if (auto * backend = backend_of(item.buft)) {
            homes[item.t] = backend;
        }
    }
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        for (int j = 0; j < GGML_MAX_SRC && node->src[j] && !homes.count(node); ++j) {
            if (auto * backend = home_of(node->src[j])) {
                homes[node] = backend;
            }
        }
    }
    // constants, which nothing precedes
    for (int i = ggml_graph_n_nodes(gf) - 1; i >= 0; --i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        for (int j = 0; j < GGML_MAX_SRC && node->src[j] && homes.count(node); ++j) {
            if (!home_of(node->src[j])) {
                homes[node->src[j]] = homes[node];
            }
        }
    }

    for (const auto & [t, backend] : homes) {
        if (!t->view_src && (t->op == GGML_OP_NONE || ggml_backend_supports_op(backend, t))) {
            ggml_backend_sched_set_tensor_backend(sched, t, backend);
        }
    }
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        if (ggml_graph_node(gf, i)->op == GGML_OP_CUSTOM) {
            ggml_backend_sched_set_tensor_backend(sched, ggml_graph_node(gf, i), ggml_backend_sched_get_backend(sched, ggml_backend_sched_get_n_backends(sched) - 1));
        }
    }
}

bool capkv_sched::reserve(ggml_cgraph * gf, const capkv_inputs & inputs) {
    place(gf, inputs);

    const bool ok = ggml_backend_sched_reserve(sched, gf);
    ggml_backend_sched_reset(sched);
    return ok;
}

void capkv_sched::set_threadpool(ggml_backend_t backend_cpu, ggml_threadpool_t threadpool) {
    auto * reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend_cpu));
    auto * fn  = (decltype(ggml_backend_cpu_set_threadpool) *) ggml_backend_reg_get_proc_address(reg, "ggml_backend_cpu_set_threadpool");
    if (fn) {
        fn(backend_cpu, threadpool);
    }
}

ggml_status capkv_sched::compute(llama_context * lctx, ggml_cgraph * gf, const capkv_inputs & inputs, capkv_outputs & outputs) {
    const size_t n = n_tensors(gf);
    if (n > n_tensors_max) {
        make(lctx, n);
    }

    ggml_backend_sched_reset(sched);

    place(gf, inputs);

    if (!ggml_backend_sched_alloc_graph(sched, gf)) {
        LLAMA_LOG_ERROR("%s: failed to allocate the graph of an eviction\n", __func__);
        free();
        return GGML_STATUS_ALLOC_FAILED;
    }

    inputs.set([&](const capkv_inputs::item & item) { return backend_of(item.buft); });

    // as llama_context::graph_compute() does for a batch
    if (lctx->backend_cpu) {
        set_threadpool(lctx->backend_cpu, lctx->threadpool_batch);
    }
    for (const auto & [backend, fn] : lctx->set_n_threads_fns) {
        fn(backend, lctx->cparams.n_threads_batch);
    }

    const auto res = ggml_backend_sched_graph_compute_async(sched, gf);

    for (auto & [t, data] : outputs.data) {
        if (res == GGML_STATUS_SUCCESS) {
            ggml_backend_tensor_get_async(ggml_backend_sched_get_tensor_backend(sched, const_cast<ggml_tensor *>(t)), t, data.data(), 0, ggml_nbytes(t));
        }
    }
    ggml_backend_sched_synchronize(sched);

    if (res == GGML_STATUS_ABORTED) {
        LLAMA_LOG_DEBUG("%s: an eviction was aborted\n", __func__);
    } else if (res != GGML_STATUS_SUCCESS) {
        LLAMA_LOG_ERROR("%s: failed to compute an eviction, status %d\n", __func__, res);
    }
    return res;
}

void capkv_sched::wait(llama_context * lctx) {
    ggml_backend_sched_synchronize(lctx->get_sched());
}

int capkv_sched::n_threads(const llama_context * lctx) {
    return lctx->cparams.n_threads_batch;
}

capkv_sched::no_abort::no_abort(llama_context * lctx) : lctx(lctx), callback(lctx->abort_callback), data(lctx->abort_callback_data) {
    lctx->set_abort_callback(nullptr, nullptr);
}

capkv_sched::no_abort::~no_abort() {
    lctx->set_abort_callback(callback, data);
}

size_t capkv_sched::n_bytes() const {
    size_t res = 0;
    for (const auto & [buft, size] : memory_breakdown()) {
        res += size;
    }
    return res;
}

std::map<ggml_backend_buffer_type_t, size_t> capkv_sched::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> res;
    for (int i = 0; sched && i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        res[ggml_backend_sched_get_buffer_type(sched, backend)] += ggml_backend_sched_get_buffer_size(sched, backend);
    }
    return res;
}
