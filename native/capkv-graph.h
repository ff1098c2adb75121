#pragma once

#include "capkv-layer.h"
#include "capkv-params.h"
#include "policies/policy.h"

#include "ggml-cpp.h"

#include <functional>
#include <memory>

// the ggml_context of a graph of at most n_nodes, without the data of its tensors; throws std::bad_alloc
class capkv_graph_meta {
public:
    explicit capkv_graph_meta(size_t n_nodes);

    ggml_context * get() const { return ctx.get(); }

    // forget the tensors; those that are made next are at the same addresses
    void reset() { ggml_reset(ctx.get()); }

private:
    // not zeroed: n_nodes is a bound, and a page that is never written takes no memory
    std::unique_ptr<uint8_t[]> buf;
    ggml_context_ptr           ctx;
};

// bytes that the tensors of a graph take in buffers of this type, as ggml's allocator lays them out; nothing is allocated, and tensors
// that have their data already (cells, observed queries) do not count
size_t capkv_work_size(ggml_cgraph * gf, ggml_backend_buffer_type_t buft);

// work memory of what is scored together, in bytes, at most, or what a single KV head takes if that is more: of heads of a layer on the
// CPU and on a device, and of several layers
static constexpr size_t CAPKV_WORK_MAX        =  16*1024*1024;
static constexpr size_t CAPKV_WORK_MAX_DEVICE = 128*1024*1024;
static constexpr size_t CAPKV_WORK_MAX_LAYERS =  64*1024*1024;

// how many of n KV heads, or layers, are scored together: as many as keep the work memory within work_max, at least one
//   work: bytes that it takes to score so many together
int64_t capkv_n_together(int64_t n, size_t work_max, const std::function<size_t(int64_t)> & work);

// where the inputs for what is computed with t are to lie: beside it, or NULL where that is host memory
ggml_backend_buffer_type_t capkv_input_buft(const ggml_tensor * t);
