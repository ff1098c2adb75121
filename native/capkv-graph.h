#pragma once

#include "capkv-cache.h"

#include "ggml-cpp.h"

// room for the tensors of a graph of at most n_nodes, without their data; throws std::bad_alloc
class capkv_graph_meta {
public:
    explicit capkv_graph_meta(size_t n_nodes);

    ggml_context * get() const { return ctx.get(); }

private:
    // n_nodes is a bound, so this is not zeroed: a page that holds no tensor takes no memory
    std::unique_ptr<uint8_t[]> buf;
    ggml_context_ptr           ctx;
};

// a bound on the nodes of the graphs of some layers: scores of n entries, compaction
size_t capkv_n_nodes        (const capkv_policy & policy, const capkv_cache::layer * beg, const capkv_cache::layer * end, int64_t n);
size_t capkv_n_nodes_compact(size_t n_layers);

// KV heads that are scored together, so that the work of a layer stays bounded
int64_t capkv_heads_per_group(const capkv_policy & policy, int64_t n, int64_t n_head, int64_t n_head_kv, int64_t d_k, int64_t d_v);
