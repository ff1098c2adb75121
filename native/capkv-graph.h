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

// Work memory of what is computed together, in bytes, at most. First the heads of a layer are divided; where a single one takes more,
// its entries are gone through in tiles. Not const, because tests make it small
struct capkv_work_max {
    size_t host   =  16*1024*1024; // heads of a layer on the CPU
    size_t device = 128*1024*1024; // on a device
    size_t layers =  64*1024*1024; // several layers
};

extern capkv_work_max capkv_work;

// how many of n KV heads or layers are computed together: as many as keep the work memory within work_max, at least one
//   work: bytes that it takes to compute so many together
int64_t capkv_n_together(int64_t n, size_t work_max, const std::function<size_t(int64_t)> & work);

// how many of n entries are taken at once: n, halved until the work memory is within work_max or hardly becomes less, since some policies
// need the keys of a head as a whole
//   work: bytes that it takes in tiles of so many
int64_t capkv_n_tile(int64_t n, size_t work_max, const std::function<size_t(int64_t)> & work);

// where the inputs for what is computed with t are to lie: beside it, or NULL where that is host memory
ggml_backend_buffer_type_t capkv_input_buft(const ggml_tensor * t);
