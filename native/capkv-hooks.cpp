#include "capkv-hooks.h"

#include "capkv-cast.h"

#include "llama-graph.h"
#include "llama-impl.h"

#include <algorithm>
#include <vector>

bool capkv_can_seq_rm(const llama_memory_i * mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * cache = capkv_memory::find(mem);

    return !cache || cache->can_seq_rm(seq_id, p0, p1);
}

//
// sequences
//

bool capkv_seq_cp(llama_memory_i * mem, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    const auto * cache = capkv_memory::find(mem);

    if (!cache || seq_id_src == seq_id_dst) {
        return false;
    }

    // a stream belongs to one sequence: an eviction could not tell whose cells are whose
    const llama_seq_id n_seq = cache->n_stream();
    if (seq_id_src >= n_seq || seq_id_dst >= n_seq) {
        LLAMA_LOG_ERROR("%s: sequence %d cannot be copied to %d, both stay as they are: allowed with a KV budget is 0 to n_seq_max - 1 = %d\n",
                __func__, seq_id_src, seq_id_dst, n_seq - 1);
        return true;
    }

    if (p0 <= 0 && p1 < 0) {
        return false;
    }

    if (!cache->can_seq_cp(seq_id_src, p0, p1)) {
        LLAMA_LOG_ERROR("%s: [%d, %d) of sequence %d cannot be copied, sequence %d stays as it is: allowed is a range that is there in full\n",
                __func__, p0, p1, seq_id_src, seq_id_dst);
        return true;
    }

    // copy all of it, then remove what is not in the range
    mem->seq_cp(seq_id_src, seq_id_dst, -1, -1);

    bool ok = p1 < 0 || mem->seq_rm(seq_id_dst, p1, -1);
    ok = ok && (p0 <= 0 || mem->seq_rm(seq_id_dst, 0, p0));
    if (!ok) {
        LLAMA_LOG_ERROR("%s: a part of a sequence cannot be copied in this memory, sequence %d is empty now\n", __func__, seq_id_dst);
        mem->seq_rm(seq_id_dst, -1, -1);
    }

    return true;
}

bool capkv_seq_keep(llama_memory_i * mem, llama_seq_id seq_id) {
    const auto * cache = capkv_memory::find(mem);

    // llama_kv_cache::seq_keep() would look at the stream of seq_id alone
    for (llama_seq_id id = 0; cache && id < (llama_seq_id) cache->n_stream(); ++id) {
        if (id != seq_id) {
            mem->seq_rm(id, -1, -1);
        }
    }

    return cache != nullptr;
}

bool capkv_no_shift(const llama_memory_i * mem) {
    if (!capkv_memory::find(mem)) {
        return false;
    }

    LLAMA_LOG_ERROR("%s: positions cannot be shifted with a KV budget (llama_memory_can_shift() says so), they stay as they are\n", __func__);

    return true;
}

//
// contexts
//

uint32_t capkv_n_ctx(const llama_memory_i * mem) {
    const auto * cache = capkv_memory::find(mem);

    return capkv_n_ctx_seq(mem)*(cache ? cache->n_stream() : 0);
}

uint32_t capkv_n_ctx_seq(const llama_memory_i * mem) {
    const auto * cache = capkv_memory::find(mem);

    return cache && cache->get_length().endless ? capkv_length::n_ctx_seq_endless(cache->n_stream()) : 0;
}

int32_t capkv_update_result(llama_memory_i * mem) {
    auto * cache = capkv_memory::find(mem);

    switch (cache ? cache->take_status() : GGML_STATUS_SUCCESS) {
        case GGML_STATUS_ABORTED: return  2;
        case GGML_STATUS_FAILED:  return -3;
        default:                  return  0;
    }
}

uint32_t capkv_n_nodes(const llama_memory_i * mem, uint32_t n_layer) {
    const auto * cache = capkv_memory::find(mem);

    return cache ? cache->get_observer().n_nodes() + n_layer*CAPKV_CAST_NODES : 0;
}

void capkv_build_observe(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, ggml_tensor * k_cur, float kq_scale, int il) {
    if (auto * cache = capkv_memory::find(mctx)) {
        cache->get_observer().build(g, mctx, q_cur, k_cur, kq_scale, il);
    }
}

void capkv_set_rope_positions(const llm_graph_result & res, const llama_memory_i * mem, const llama_ubatch & ubatch) {
    const auto * cache = capkv_memory::find_shared(mem);

    if (!cache || !ubatch.pos || !cache->has_offset()) {
        return;
    }

    // M-RoPE has positions in time, height and width, which move together, and a fourth that is not used
    const uint32_t n_dims = std::min<uint32_t>(ubatch.n_pos, 3);

    std::vector<llama_pos> pos(ubatch.pos, ubatch.pos + (size_t) ubatch.n_tokens*ubatch.n_pos);
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (uint32_t j = 0; j < n_dims; ++j) {
            pos[(size_t) j*ubatch.n_tokens + i] -= cache->pos_offset(ubatch.seq_id[i][0]);
        }
    }

    llama_ubatch moved = ubatch;
    moved.pos = pos.data();

    for (auto & inp : res.inputs) {
        if (dynamic_cast<llm_graph_input_pos *>(inp.get()) || dynamic_cast<llm_graph_input_attn_temp *>(inp.get())) {
            inp->set_input(&moved);
        }
    }
}

void capkv_build_cast(const llm_graph_context & g, ggml_tensor *& k, ggml_tensor *& v, int il) {
    if (capkv_memory::find(g.mctx)) {
        capkv_cast(g, k, v, il);
    }
}

void capkv_detach_threadpool(const llama_memory_i * mem, ggml_backend_t backend_cpu) {
    if (backend_cpu && capkv_memory::find(mem)) {
        capkv_sched::set_threadpool(backend_cpu, nullptr);
    }
}
