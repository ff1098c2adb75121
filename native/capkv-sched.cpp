// the scheduler that computes the graphs of evictions: how large they are, and the memory that they need

#include "capkv-cache.h"
#include "capkv-graph.h"
#include "capkv-hooks.h"

#include "llama-context.h"
#include "llama-impl.h"

#include <algorithm>
#include <numeric>
#include <unordered_set>

// tensors of a graph of several layers at most: a scheduler takes 20 kB of address space for each
static constexpr size_t CAPKV_GRAPH_SIZE = 1024;

// nodes, leafs, and what those are views of
static size_t capkv_graph_size(ggml_cgraph * gf) {
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

size_t capkv_cache::n_nodes_scores(const span & part) const {
    return capkv_n_nodes(layers.data() + part.beg, layers.data() + part.end);
}

bool capkv_cache::init_sched(llama_context * lctx) {
    const uint32_t n = kv.get_size();

    reserved = false; // a second try counts with all that may be observed, as the first did

    plan p = make_plan(0, n);
    p.order.resize(n);
    std::iota(p.order.begin(), p.order.end(), 0);

    // an empty stream's cells have no positions: any will do, the shapes count
    struct last_cell {
        llama_kv_cells & cells;
        const uint32_t   i;
        const bool       empty = cells.is_empty(i);

        last_cell(llama_kv_cells & cells, uint32_t i) : cells(cells), i(i) { if (empty) { cells.pos_set(i, i); } }
        ~last_cell() { if (empty) { cells.rm(i); } }
    } last(kv.v_cells[0], n - 1);

    init_groups(p);

    auto scores = [&](const span & part, auto && f) {
        const capkv_graph_meta meta(n_nodes_scores(part));
        capkv_inputs inputs;
        std::vector<score_out> outs;
        return f(build_scores(meta.get(), inputs, p, part, outs));
    };
    auto compaction = [&](const span & part, auto && f) {
        const capkv_graph_meta meta(capkv_n_nodes_compact(part.end - part.beg));
        capkv_inputs inputs;
        std::vector<ggml_tensor *> caps;
        return f(build_compact(meta.get(), inputs, p, part, caps));
    };

    // as many layers in a graph as fit its size, at least one
    size_t size_max = 0;
    auto spans_of = [&](auto && build) {
        std::vector<span> res;
        size_t size = CAPKV_GRAPH_SIZE;
        for (size_t i = 0; i < layers.size(); ++i) {
            const size_t size_layer = build(span { i, i + 1 }, capkv_graph_size);
            if (size + size_layer > CAPKV_GRAPH_SIZE) {
                res.push_back({ i, i });
                size = 0;
            }
            res.back().end = i + 1;
            size += size_layer;
            size_max = std::max(size_max, size);
        }
        return res;
    };
    spans_scores  = spans_of(scores);
    spans_compact = spans_of(compaction);

    // how many nodes and how much memory a sum by halves takes depends on n modulo 64: reserve for the worst of these sizes
    auto each_n = [&](auto && f) {
        for (const uint32_t n_less : { 0, 1, 4, 8, 12, 16, 24, 40 }) {
            if (n_less < n) {
                p.order.resize(n - n_less);
                std::iota(p.order.begin(), p.order.end(), n_less);
                for (const auto & part : spans_scores) {
                    f(part);
                }
            }
        }
    };
    each_n([&](const span & part) { size_max = std::max(size_max, scores(part, capkv_graph_size)); });

    new_sched(lctx, size_max);

    auto reserve = [&](ggml_cgraph * gf) {
        const bool ok = ggml_backend_sched_reserve(sched, gf);
        ggml_backend_sched_reset(sched);
        return ok;
    };

    bool res = true;
    for (const auto & part : spans_compact) {
        res = res && compaction(part, reserve);
    }

    each_n([&](const span & part) { res = res && scores(part, reserve); });

    if (!res) {
        free_sched();
    }
    return res;
}

// over the backends of the context: each layer is scored where its cache lives
void capkv_cache::new_sched(llama_context * lctx, size_t size) {
    std::vector<ggml_backend_t> backends;
    for (int i = 0; i < ggml_backend_sched_get_n_backends(lctx->get_sched()); ++i) {
        backends.push_back(ggml_backend_sched_get_backend(lctx->get_sched(), i));
    }

    free_sched();

    sched      = ggml_backend_sched_new(backends.data(), nullptr, backends.size(), size, false, false);
    sched_size = size;
}

// a scheduler whose buffers could not be allocated is of no use any more
void capkv_cache::free_sched() {
    ggml_backend_sched_free(sched);
    sched = nullptr;
}

static void capkv_set_threadpool(ggml_backend_t backend_cpu, ggml_threadpool_t threadpool) {
    auto * reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend_cpu));
    auto * fn  = (decltype(ggml_backend_cpu_set_threadpool) *) ggml_backend_reg_get_proc_address(reg, "ggml_backend_cpu_set_threadpool");
    if (fn) {
        fn(backend_cpu, threadpool);
    }
}

void capkv_detach_threadpool(const llama_memory_i * mem, ggml_backend_t backend_cpu) {
    if (backend_cpu && capkv_memory::find(mem)) {
        capkv_set_threadpool(backend_cpu, nullptr);
    }
}

ggml_status capkv_cache::compute(llama_context * lctx, ggml_cgraph * gf, const capkv_inputs & inputs) {
    const size_t size = capkv_graph_size(gf);
    if (size > sched_size) {
        new_sched(lctx, size);
    }

    ggml_backend_sched_reset(sched);

    if (!ggml_backend_sched_alloc_graph(sched, gf)) {
        LLAMA_LOG_ERROR("%s: failed to allocate the graph of an eviction\n", __func__);
        free_sched();
        return GGML_STATUS_ALLOC_FAILED;
    }

    inputs.set();

    // an eviction works as a batch does, whatever the last graph was: as llama_context::graph_compute() sets it
    if (lctx->backend_cpu) {
        capkv_set_threadpool(lctx->backend_cpu, lctx->threadpool_batch);
    }
    for (const auto & [backend, fn] : lctx->set_n_threads_fns) {
        fn(backend, lctx->cparams.n_threads_batch);
    }

    const auto res = ggml_backend_sched_graph_compute(sched, gf);
    if (res == GGML_STATUS_ABORTED) {
        LLAMA_LOG_DEBUG("%s: an eviction was aborted\n", __func__);
    } else if (res != GGML_STATUS_SUCCESS) {
        LLAMA_LOG_ERROR("%s: failed to compute an eviction, status %d\n", __func__, res);
    }
    return res;
}
