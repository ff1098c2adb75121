#pragma once

#include "llama-kv-cache.h"

#include <utility>
#include <vector>

class capkv_cache;

//
// capkv_memory: the KV caches inside llama.cpp's memory modules
//
// The only place that knows the kinds of modules: a plain cache, one with sliding windows, and the two that combine a cache with a
// recurrent state. What has to be done in all of them is in capkv-update.
//

class capkv_memory {
public:
    // the caches of a module, with and without a budget: the one with full attention comes first; none for any other kind
    static std::vector<llama_kv_cache *> caches(const llama_memory_i * mem);

    // the capkv_cache of a module, of the cache that a batch's graph works on, or of the module that it does; NULL without a budget
    static capkv_cache * find(const llama_memory_i * mem);
    static capkv_cache * find(const llama_kv_cache_context * mctx);
    static capkv_cache * find(const llama_memory_context_i * mctx);

    // the same, also for a module that reads the cells of another context's: a draft model's
    static const capkv_cache * find_shared(const llama_memory_i * mem);

    // whether a graph is only reserved: there is no batch yet
    static bool is_reserve(const llama_kv_cache_context * mctx);

    // the streams of a sequence, or with -1 all of them
    static std::vector<uint32_t> streams_of(const llama_kv_cache & kv, llama_seq_id seq_id);

    // copies between streams that seq_cp() asked for and the next batch would make: [source, destination]
    static std::vector<std::pair<uint32_t, uint32_t>> take_pending_copies(llama_kv_cache & kv);

    // K and V of a stream
    static void copy_tensors(llama_kv_cache & kv, uint32_t s_src, uint32_t s_dst);

    // the stream has no cells in use any more, whatever it holds
    static void clear_cells(llama_kv_cache & kv, uint32_t s);
};
