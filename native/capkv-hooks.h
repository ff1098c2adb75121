#pragma once

// what the patched files of llama.cpp call: one line each, everything else is in native/

#include "capkv-cache.h"
#include "capkv-memory.h"

#include <functional>

// lives while llama_init_from_model() runs: the parameters of capkv_set_next_params() end with this call, even if it returns before it
// makes a context
struct capkv_call {
    capkv_call() = default;
    ~capkv_call() { capkv_set_next_params(nullptr); }

    capkv_call(const capkv_call &) = delete;
    capkv_call & operator=(const capkv_call &) = delete;
};

// lives while a llama_context is made: takes the budget that is for it, checks it against the model and adapts the context's own
// parameters (a stream for each sequence). The context of a draft model, whose caller took them from an adapted context, gets back what
// was asked for. Throws capkv_error
class capkv_scope {
public:
    capkv_scope(const llama_model & model, llama_context_params & params);
    ~capkv_scope();

    capkv_scope(const capkv_scope &) = delete;
    capkv_scope & operator=(const capkv_scope &) = delete;

    // both throw if a budget was asked for that this context cannot have
    void check      (const llama_memory_i * mem) const;                  // once the memory is made
    void check_graph(const llama_memory_i * mem, bool flash_attn) const; // once `auto` is resolved and the graphs are reserved

private:
    const llama_model & model;
};

// cells that a llama_kv_cache allocates; kv_size itself without a budget
uint32_t capkv_kv_size(
        const llama_hparams & hparams, ggml_type type_k, ggml_type type_v, uint32_t kv_size, llama_swa_type swa_type,
        const llama_memory_i * mem_other, const llama_memory_i::layer_filter_cb & filter);

// NULL without a budget
std::shared_ptr<capkv_cache> capkv_init(llama_kv_cache & kv, llama_swa_type swa_type, const llama_memory_i * mem_other);

// for memories made of several modules, which have to agree before one of them removes anything
bool capkv_can_seq_rm(const llama_memory_i * mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// llama_memory_seq_*(): true = done, or refused with a message in the log; false without a budget, and where llama.cpp's own way will do
//   seq_cp:   a part of a sequence, of which llama.cpp's memories of streams know nothing
//   seq_keep: the other sequences go, also those of other streams
//   no_shift: seq_add and seq_div
bool capkv_seq_cp  (llama_memory_i * mem, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1);
bool capkv_seq_keep(llama_memory_i * mem, llama_seq_id seq_id);
bool capkv_no_shift(const llama_memory_i * mem);

// next to where K and V are stored: take what the policy observes of the queries; does nothing without a budget
//   q_cur: [d_k, n_head, n_tokens], as the attention gets it
void capkv_build_observe(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, float kq_scale, int il);

// how the evictions of the last memory update went, for llama_decode(): 0 = go on (they succeeded, or there was no memory for one: a
// smaller batch may still find room), 2 = aborted, -3 = failed
int32_t capkv_update_result(llama_memory_i * mem);

// the backend lets go of the pool that it computed with last, which its owner may free from now on: an eviction, or the next batch,
// would look at it before it takes another one; does nothing without a budget
void capkv_detach_threadpool(const llama_memory_i * mem, ggml_backend_t backend_cpu);

// nodes that capkv_build_observe() adds to a batch's graph at most; 0 without a budget
uint32_t capkv_n_nodes_observe(const llama_memory_i * mem);

// a saved state of a context: around what `write` and `read` do with the io that they get, a frame that lets a damaged state be
// refused before anything of it is parsed; false without a budget, and where that io is the one at hand
bool capkv_state_write(llama_context & lctx, llama_io_write_i & io, const std::function<void(llama_io_write_i &)> & write);
bool capkv_state_read(llama_context & lctx, llama_io_read_i & io, llama_seq_id seq_id, const std::function<void(llama_io_read_i &)> & read);
