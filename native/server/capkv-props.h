#pragma once

#include "capkv.h"
#include "json.h"

// what all clients of llama-server may know of the budget. It is the same for all slots, and stays when the server sleeps; HTTP threads
// ask without the context

// once a context is made, with or without a budget
//   n_keep: of requests that say none
void capkv_set_props(const llama_context * ctx, int32_t n_keep);

// the object `kv` of /props; null without a budget
common_json capkv_props();

// the budget that a request asks for with kv_budget; throws std::invalid_argument naming what is allowed
uint32_t capkv_request_budget(const common_json & value);

// whether a chat wants its system message kept, so that it has to be known where that ends
//   n_keep: what the request says, or null
bool capkv_keeps_system(const common_json & n_keep);
