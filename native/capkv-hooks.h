#pragma once

// what the patched files of llama.cpp call, one line each

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
std::shared_ptr<capkv_cache> capkv_init(
        llama_kv_cache & kv, const llama_model & model, const llama_hparams & hparams, capkv_observer::buffers & bufs,
        llama_swa_type swa_type, const llama_memory_i * mem_other);

// a memory made of several modules asks this before one of them removes anything; true without a budget
bool capkv_can_seq_rm(const llama_memory_i * mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// llama_memory_seq_*(): true = done, or refused with a message in the log; false = llama.cpp is to do it: without a budget always
//   seq_cp:   copies a part of a sequence too, which llama.cpp cannot do between streams
//   seq_keep: removes the other sequences, whichever stream they are in; llama.cpp looks at the stream of seq_id alone
//   no_shift: refuses seq_add and seq_div
bool capkv_seq_cp  (llama_memory_i * mem, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1);
bool capkv_seq_keep(llama_memory_i * mem, llama_seq_id seq_id);
bool capkv_no_shift(const llama_memory_i * mem);

// where K and V are stored: adds the nodes that observe the queries; none without a budget
//   q_cur: [d_k, n_head, n_tokens], as the attention gets it; k_cur: the same of the keys, or NULL if the layer has none of its own
void capkv_build_observe(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q_cur, ggml_tensor * k_cur, float kq_scale, int il);

// once the inputs of a batch's graph are set: the positions that its queries and keys are rotated to, where they are not those of the
// batch
void capkv_set_rope_positions(const llm_graph_result & res, const llama_memory_i * mem, const llama_ubatch & ubatch);

// the lengths that llama_n_ctx() and llama_n_ctx_seq() tell of a context without an end; 0 if it has one
uint32_t capkv_n_ctx    (const llama_memory_i * mem);
uint32_t capkv_n_ctx_seq(const llama_memory_i * mem);

// before the attention of a layer: puts copies in F32 in the place of k and v where that is faster; see capkv-cast.h. Nothing without a
// budget
void capkv_build_cast(const llm_graph_context & g, ggml_tensor *& k, ggml_tensor *& v, int il);

// the update that evicts; NULL if there is nothing to evict, or no budget
llama_memory_context_ptr capkv_init_update(capkv_cache * cache, llama_context * lctx, bool optimize);

// how the evictions of the last memory update went, as llama_decode() returns it: 2 = aborted, -3 = failed, 0 = go on. That is so as
// well if there was no memory for an eviction: a smaller batch may still find room
int32_t capkv_update_result(llama_memory_i * mem);

// the owner of a thread pool may free it once it is detached, but the CPU backend would look at it again before it takes another one:
// make it forget the pool; does nothing without a budget
void capkv_detach_threadpool(const llama_memory_i * mem, ggml_backend_t backend_cpu);

// the most nodes that capkv_build_observe() and capkv_build_cast() add to the graph of a batch; 0 without a budget
uint32_t capkv_n_nodes(const llama_memory_i * mem, uint32_t n_layer);

// put a frame around what `write` and `read` do with the io that they are given: a damaged state is refused before any of it is parsed
// false: nothing was done, since there is no budget, or since io is in such a frame already
bool capkv_state_write(llama_context & lctx, llama_io_write_i & io, llama_seq_id seq_id, const std::function<void(llama_io_write_i &)> & write);
bool capkv_state_read(llama_context & lctx, llama_io_read_i & io, llama_seq_id seq_id, const std::function<void(llama_io_read_i &)> & read);
