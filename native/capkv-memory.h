#pragma once

#include "llama-kv-cache.h"

#include <vector>

class capkv_cache;

//
// capkv_memory: the KV caches inside llama.cpp's memory modules
//
// The only place that knows the kinds of modules: a plain cache, one with sliding windows, and the two that combine a cache with a
// recurrent state. What has to be done in all caches of a context is here as well.
//

class capkv_memory {
public:
    // the caches of a module, with and without a budget: the one with full attention comes first; none for any other kind
    static std::vector<llama_kv_cache *> caches(const llama_memory_i * mem);

    // the capkv_cache of a module, or of the cache that a batch's graph works on; NULL without a budget
    static capkv_cache * find(const llama_memory_i * mem);
    static capkv_cache * find(const llama_kv_cache_context * mctx);

    // whether a graph is only reserved: there is no batch yet
    static bool is_reserve(const llama_kv_cache_context * mctx);

    // seq_cp() between streams copies cells with the next batch: copy them now, in all caches, after the batch that is still computed.
    // A state that is written or read, and an eviction, cannot wait
    static void apply_pending_copies(llama_context & lctx);

    // empty the sequence, or with -1 all of them, and zero its cells, whatever they hold
    static void drop(llama_memory_i * mem, llama_seq_id seq_id);

    // the streams of a sequence, or with -1 all of them
    static std::vector<uint32_t> streams_of(const llama_kv_cache & kv, llama_seq_id seq_id);
};
