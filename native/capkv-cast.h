#pragma once

#include "ggml-backend.h"
#include "ggml.h"

#include <cstddef>
#include <cstdint>

//
// capkv_cast: quantized cells as F32 for the attention of a batch
//
// On a CPU, ggml's attention over quantized cells dequantizes a row of V once for every query, and its tiled path, which a long batch is
// faster with, takes F16 and F32 alone. A copy of K and V in F32, which a graph needs for one layer at a time, takes each row once.
//

// tokens of a sequence in a batch from which on the copy takes less time than it saves (scripts/checks/cell_types.py)
static constexpr int64_t CAPKV_CAST_TOKENS = 8;

// no copy takes more bytes than this, K and V together
static constexpr size_t CAPKV_CAST_BYTES = 256u << 20;

// nodes in each layer of a graph
static constexpr uint32_t CAPKV_CAST_NODES = 2;

// whether the attention of n_tokens tokens is over copies of k and v: [d, n_kv, n_head_kv, n_stream], views of a layer's cells
// It depends on the shape of the graph alone, so a graph that is reused stays right, and not on how many of the cells are in use, so that
// the first graph, which is reserved, is the largest
bool capkv_wants_cast(ggml_backend_sched_t sched, const ggml_tensor * k, const ggml_tensor * v, int64_t n_tokens);

struct llm_graph_context;

// puts the copies in the place of k and v where they are wanted
void capkv_cast(const llm_graph_context & g, ggml_tensor *& k, ggml_tensor *& v, int il);
