#include "capkv-memory.h"

#include "capkv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"

#include <numeric>

std::vector<llama_kv_cache *> capkv_memory::caches(const llama_memory_i * mem) {
    if (const auto * kv = dynamic_cast<const llama_kv_cache *>(mem)) {
        return { const_cast<llama_kv_cache *>(kv) }; // as the getters of the other kinds give it
    }
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(mem)) {
        return { iswa->get_base(), iswa->get_swa() };
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(mem)) {
        return caches(hybrid->get_mem_attn());
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa *>(mem)) {
        return caches(hybrid->get_mem_attn());
    }
    return {};
}

capkv_cache * capkv_memory::find(const llama_memory_i * mem) {
    const auto all = caches(mem);

    return all.empty() ? nullptr : all[0]->capkv.get();
}

capkv_cache * capkv_memory::find(const llama_kv_cache_context * mctx) {
    return mctx->kv->capkv.get();
}

bool capkv_memory::is_reserve(const llama_kv_cache_context * mctx) {
    return mctx->ubatches.empty();
}

std::vector<uint32_t> capkv_memory::streams_of(const llama_kv_cache & kv, llama_seq_id seq_id) {
    if (seq_id != -1) {
        return { kv.get_stream(seq_id) };
    }
    std::vector<uint32_t> res(kv.get_n_stream());
    std::iota(res.begin(), res.end(), 0);
    return res;
}

void capkv_memory::apply_pending_copies(llama_context & lctx) {
    for (auto * kv : caches(lctx.get_memory())) {
        auto & pending = kv->sc_info;

        if (!pending.empty()) {
            ggml_backend_sched_synchronize(lctx.get_sched());
        }

        for (size_t i = 0; i < pending.ssrc.size(); ++i) {
            if (kv->capkv) {
                kv->capkv->update(pending.ssrc[i], pending.sdst[i]);
            }
            for (const auto & l : kv->layers) {
                ggml_backend_tensor_copy(l.k_stream[pending.ssrc[i]], l.k_stream[pending.sdst[i]]);
                if (l.v) {
                    ggml_backend_tensor_copy(l.v_stream[pending.ssrc[i]], l.v_stream[pending.sdst[i]]);
                }
            }
        }
        pending = {};
    }
}

void capkv_memory::drop(llama_memory_i * mem, llama_seq_id seq_id) {
    for (auto * kv : caches(mem)) {
        kv->state_clear(seq_id);
        for (const uint32_t s : streams_of(*kv, seq_id)) {
            kv->v_cells[s].reset();
            kv->v_heads[s] = 0;
            if (kv->capkv) {
                kv->capkv->reset(s);
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
