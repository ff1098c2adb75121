#pragma once

#include "ggml.h"

// x in F32, contiguous, for data in host memory: one custom op on the CPU. ggml_cast() does the same block by block, which takes longer
// for a few tokens than it saves
//   x: [d, n, n_head_kv, n_stream] of any type whose rows can be read, in any order of its dimensions but the first
ggml_tensor * capkv_build_dequantize(ggml_context * ctx, ggml_tensor * x);

// as ggml_get_rows(), for data in host memory
//   x: [d, n_cells, n_head_kv] of any type, idx: I32 [n, n_head_kv]; result: F32 [d, n, n_head_kv]
ggml_tensor * capkv_build_get_rows(ggml_context * ctx, ggml_tensor * x, ggml_tensor * idx);
