#include "capkv-update.h"

#include "capkv-cache.h"
#include "capkv-hooks.h"

#include "llama-context.h"

void capkv_apply_pending_copies(llama_context & lctx) {
    for (auto * kv : capkv_memory::caches(lctx.get_memory())) {
        const auto pending = capkv_memory::take_pending_copies(*kv);

        if (!pending.empty()) {
            ggml_backend_sched_synchronize(lctx.get_sched());
        }
        for (const auto & [s_src, s_dst] : pending) {
            if (auto * cache = capkv_memory::find(kv)) {
                cache->update(s_src, s_dst);
            }
            capkv_memory::copy_tensors(*kv, s_src, s_dst);
        }
    }
}

void capkv_shift_windows_read(llama_context & lctx) {
    if (auto * cache = capkv_memory::find(lctx.get_memory())) {
        cache->shift_windows_read(&lctx, [&](llama_seq_id seq_id) { capkv_drop(lctx.get_memory(), seq_id); });
    }
}

void capkv_drop(llama_memory_i * mem, llama_seq_id seq_id) {
    for (auto * kv : capkv_memory::caches(mem)) {
        kv->state_clear(seq_id);
        for (const uint32_t s : capkv_memory::streams_of(*kv, seq_id)) {
            capkv_memory::clear_cells(*kv, s);
            if (auto * cache = capkv_memory::find(kv)) {
                cache->reset(s);
            }
        }
    }

    // memory without KV cells: a recurrent state
    if (seq_id == -1) {
        mem->clear(true);
    } else {
        mem->seq_rm(seq_id, -1, -1);
    }
}

// the update of the memory module that runs the evictions
class capkv_update_context : public llama_memory_context_i {
public:
    capkv_update_context(capkv_cache & cache, llama_context * lctx) : cache(cache), lctx(lctx) {}

    bool next() override { return false; }

    bool apply() override {
        capkv_apply_pending_copies(*lctx);

        return cache.evict(lctx, [&](llama_seq_id seq_id) { capkv_drop(lctx->get_memory(), seq_id); });
    }

    llama_memory_status get_status() const override { return LLAMA_MEMORY_STATUS_SUCCESS; }

    const llama_ubatch & get_ubatch() const override { GGML_ABORT("an eviction has no ubatch"); }

private:
    capkv_cache   & cache;
    llama_context * lctx;
};

llama_memory_context_ptr capkv_init_update(capkv_cache * cache, llama_context * lctx, bool optimize) {
    if (!cache) {
        return nullptr;
    }

    const bool evicts = cache->prepare_eviction(lctx, optimize);

    capkv_shift_windows_read(*lctx);

    if (!evicts) {
        return nullptr;
    }
    return std::make_unique<capkv_update_context>(*cache, lctx);
}
