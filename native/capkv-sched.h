#pragma once

#include "policies/policy.h"

#include "ggml-backend.h"

#include <map>
#include <unordered_map>

struct llama_context;

// tensors that are read once a graph is computed; all are F32
class capkv_outputs {
public:
    // NULL is left out
    void add(const ggml_tensor * t);

    const std::vector<float> & get(const ggml_tensor * t) const { return data.at(t); }

private:
    friend class capkv_sched;

    std::unordered_map<const ggml_tensor *, std::vector<float>> data;
};

//
// capkv_sched: computes the graphs of evictions on the backends of the context
//
// It has a scheduler of its own, so that the one of the batches keeps its reserved buffers.
//

class capkv_sched {
public:
    capkv_sched() = default;
    ~capkv_sched();

    capkv_sched(const capkv_sched &) = delete;
    capkv_sched & operator=(const capkv_sched &) = delete;

    bool exists() const { return sched != nullptr; }

    // for graphs of at most n_tensors; each layer is scored where its cache lives
    void make(llama_context * lctx, size_t n_tensors);
    void free();

    // false if there is no memory
    bool reserve(ggml_cgraph * gf, const capkv_inputs & inputs);

    // with the threads of a batch, whatever was computed last. Without memory the scheduler is freed: its buffers are of no use then.
    // A device is waited for once
    ggml_status compute(llama_context * lctx, ggml_cgraph * gf, const capkv_inputs & inputs, capkv_outputs & outputs);

    // wait for the batch that is still computed. Unlike llama_context::synchronize() this leaves the context's clock alone, which counts
    // the eviction as a part of the next batch
    static void wait(llama_context * lctx);

    // threads of a batch
    static int n_threads(const llama_context * lctx);

    // while it lives, the abort callback of the context is off
    class no_abort {
    public:
        explicit no_abort(llama_context * lctx);
        ~no_abort();

    private:
        llama_context * lctx;
        bool (* const callback)(void *);
        void *  const data;
    };

    // the pool that the CPU backend computes with from now on; NULL = its own
    static void set_threadpool(ggml_backend_t backend_cpu, ggml_threadpool_t threadpool);

    // work memory of all backends, and of each type of buffers
    size_t n_bytes() const;
    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const;

    // tensors that a scheduler needs to know for this graph: nodes, leafs, and what those are views of
    static size_t n_tensors(ggml_cgraph * gf);

private:
    ggml_backend_sched_t sched = nullptr;
    size_t n_tensors_max = 0;

    // the one whose memory this type is; NULL if there is none
    ggml_backend_t backend_of(ggml_backend_buffer_type_t buft) const;

    void place(ggml_cgraph * gf, const capkv_inputs & inputs) const;
};
