#pragma once

#include "capkv-error.h"

#include <string>

bool capkv_params_on(const capkv_params & params);

// whether the tests run an architecture with evictions
bool capkv_arch_tested(const std::string & name);

// each option by itself, and the options against each other; throws capkv_error
void capkv_params_check_or_throw(const capkv_params & params);

// resolve what was left open, now that the context is known; throws capkv_error
//   n_ctx_seq:     logical context of a sequence
//   bytes_per_tok: K and V of one token in the layers that the budget governs
void capkv_params_resolve(capkv_params & params, uint32_t n_ctx_seq, uint32_t n_batch, size_t bytes_per_tok);
