#include "capkv-memory.h"

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

const capkv_cache * capkv_memory::find_shared(const llama_memory_i * mem) {
    const auto all = caches(mem);

    if (all.empty()) {
        return nullptr;
    }
    return all[0]->other ? all[0]->other->capkv.get() : all[0]->capkv.get();
}

capkv_cache * capkv_memory::find(const llama_memory_context_i * mctx) {
    if (const auto * kv = dynamic_cast<const llama_kv_cache_context *>(mctx)) {
        return find(kv);
    }
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa_context *>(mctx)) {
        return find(iswa->get_base());
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_context *>(mctx)) {
        return find(hybrid->get_attn());
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa_context *>(mctx)) {
        return find(hybrid->get_attn()->get_base());
    }
    return nullptr;
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

std::vector<std::pair<uint32_t, uint32_t>> capkv_memory::take_pending_copies(llama_kv_cache & kv) {
    std::vector<std::pair<uint32_t, uint32_t>> res;
    for (size_t i = 0; i < kv.sc_info.ssrc.size(); ++i) {
        res.emplace_back(kv.sc_info.ssrc[i], kv.sc_info.sdst[i]);
    }
    kv.sc_info = {};
    return res;
}

void capkv_memory::copy_tensors(llama_kv_cache & kv, uint32_t s_src, uint32_t s_dst) {
    for (const auto & l : kv.layers) {
        ggml_backend_tensor_copy(l.k_stream[s_src], l.k_stream[s_dst]);
        if (l.v) {
            ggml_backend_tensor_copy(l.v_stream[s_src], l.v_stream[s_dst]);
        }
    }
}

void capkv_memory::clear_cells(llama_kv_cache & kv, uint32_t s) {
    kv.v_cells[s].reset();
    kv.v_heads[s] = 0;
}
