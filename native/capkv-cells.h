#pragma once

#include "capkv.h"

// the type of K and V in a context with a budget

// where both types are f16, the default of llama_context_params, they become that of kv.type; f16 stays, with a message in the log, where
// the model's heads or a device do not allow it
void capkv_choose_cells(const llama_model & model, llama_context_params & params, const capkv_params & kv);

// kv.type is what is in force
void capkv_name_cells(capkv_params & kv, ggml_type type_k);
