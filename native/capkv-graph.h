#pragma once

#include "capkv-cache.h"

#include "ggml-cpp.h"

// a context for the metadata of a graph of n_nodes, in buf
ggml_context_ptr capkv_graph_init(std::vector<uint8_t> & buf, size_t n_nodes);

// nodes of the graphs at most: scores of n entries, compaction
size_t capkv_n_nodes        (const capkv_policy & policy, const std::vector<capkv_cache::layer> & layers, int64_t n);
size_t capkv_n_nodes_compact(const std::vector<capkv_cache::layer> & layers);

// KV heads that are scored together, so that the work of a layer stays bounded
int64_t capkv_heads_per_group(const capkv_policy & policy, int64_t n, int64_t n_head, int64_t n_head_kv, int64_t d_k, int64_t d_v);
