#pragma once

#include "capkv-evict.h"
#include "capkv-observe.h"
#include "capkv-params.h"
#include "capkv-pins.h"
#include "capkv-positions.h"
#include "capkv-state.h"
#include "policies/policy.h"

#include "llama-kv-cache.h"
#include "llama-memory.h"

#include <memory>
#include <vector>

//
// capkv_cache: what a llama_kv_cache with a budget has beyond its cells
//
// A facade: llama.cpp calls it, and each part does its own work.
//
//   capkv_positions   which tokens the cells hold, and what can be taken back
//   capkv_pins        which tokens no head drops
//   capkv_observer    what the policy sees of the queries
//   capkv_evictor     scores, selects and moves entries
//   capkv_state       saved states
//

// how long the sequences of a context may be
struct capkv_length {
    uint32_t n_ctx_seq    = 0;     // of the context; without an end n_pos_max, padded
    uint32_t n_pos_max    = 0;     // RoPE positions end here
    bool     was_unified  = false; // the sequences were to share the cells of one context, before each got a stream of its own
    bool     past_trained = false; // a sequence may be longer than n_pos_max
    bool     endless      = false; // no length was asked for, and past_trained

    // what callers are told without an end: 2^30 tokens in all, an equal part for each of n_seq sequences
    static uint32_t n_ctx_seq_endless(uint32_t n_seq) { return (1u << 30)/n_seq & ~255u; }
};

class capkv_cache {
public:
    // bufs: the cache's own buffers, which the observed queries are allocated beside
    capkv_cache(
            llama_kv_cache & kv, const llama_model & model, const llama_hparams & hparams, capkv_observer::buffers & bufs,
            const capkv_params & params, const capkv_length & length);

    capkv_cache(const capkv_cache &) = delete;
    capkv_cache & operator=(const capkv_cache &) = delete;

    const capkv_length & get_length() const { return length; }

    // the keys cannot be rotated to other positions, as was found once the graphs of batches were seen: the context ends at n_pos_max
    void end_at_pos_max() { length.past_trained = length.endless = false; }

    //
    // llama_kv_cache calls these: each in the function of the same name
    //

    void clear();

    // false: the range reaches into the middle, everything stays as it is
    bool seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1);

    // the host's part; update() copies the tensors
    void seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst);
    void update(uint32_t s_src, uint32_t s_dst);

    llama_pos seq_pos_min(llama_seq_id seq_id) const;

    // of the memory with sliding windows that this cache is a part of, with the other one
    llama_pos seq_pos_min(const llama_kv_cache & swa, llama_seq_id seq_id) const;

    // no slot was found for these
    void prepare_failed(const std::vector<llama_ubatch> & ubatches);

    void state_write_meta(llama_io_write_i & io, llama_seq_id seq_id) const;
    void state_write_data(llama_io_write_i & io, llama_seq_id seq_id) const;

    // keep what it returns until state_read_data()
    std::unique_ptr<capkv_state::guard> state_read_meta(llama_io_read_i & io, llama_seq_id seq_id);
    void                                state_read_data(llama_io_read_i & io, llama_seq_id seq_id);

    // the cells of a state are of another type: throws, and says how it can be read
    [[noreturn]] void state_refuse_type(const char * what, int32_t found, ggml_type here) const { state.refuse_type(what, found, here); }

    //
    // the other hooks
    //

    bool can_seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    // whether every token of a range is there
    bool can_seq_cp(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    // the stream holds nothing any more
    void reset(uint32_t s);

    // nothing of a text; the queries of a known question stay
    void reset_text(uint32_t s);

    // the two halves of an update: see capkv_evictor::prepare() and evict()
    bool prepare_eviction(llama_context * lctx, bool optimize);
    bool evict(llama_context * lctx, const std::function<void(llama_seq_id)> & drop);

    // false if the batch lacks nothing but RoPE positions: the next update makes them
    bool has_rope_positions(const std::vector<llama_ubatch> & ubatches) { return evictor.has_rope_positions(ubatches); }

    // position minus RoPE position, of the tokens in the tail and of those to come
    llama_pos pos_offset(llama_seq_id seq_id) const { return positions.get(kv.get_stream(seq_id)).offset; }
    bool      has_offset() const;

    // see capkv_pins; a pin, or an eviction by request, that leaves too little to choose from throws capkv_error
    void pin  (llama_seq_id seq_id, llama_pos p0, llama_pos p1);
    void unpin(llama_seq_id seq_id, llama_pos p0, llama_pos p1);

    void check_room(llama_seq_id seq_id, uint32_t n_target) const;

    // reads a question whose queries take part in the evictions of the text to come, in place of those of the question before: behind what
    // the sequence holds, which is as before in the end. Returns how many queries are held. Throws capkv_error, and changes nothing, if the
    // policy has no sample or the question no room; if it cannot be decoded, no question is held (capkv-focus.cpp)
    int64_t read_focus(llama_context * lctx, llama_seq_id seq_id, const std::vector<llama_token> & tokens);

    void    drop_focus(llama_seq_id seq_id) { observer.drop_focus(kv.get_stream(seq_id)); }
    int64_t n_focus   (llama_seq_id seq_id) const { return observer.n_focus(kv.get_stream(seq_id)); }

    // evict down to n_target entries at the next update
    void request(llama_seq_id seq_id, uint32_t n_target) { evictor.request(kv.get_stream(seq_id), n_target); }

    // see capkv_evictor
    bool find_key_ropes(llama_kv_cache * kv_swa) { return evictor.find_key_ropes(kv_swa); }
    void windows_read(llama_seq_id seq_id, llama_pos offset) { evictor.windows_read(kv.get_stream(seq_id), offset); }
    void shift_windows_read(llama_context * lctx, const std::function<void(llama_seq_id)> & drop) { evictor.shift_windows_read(lctx, drop); }

    // how the evictions since the last call went
    ggml_status take_status() { return evictor.take_status(); }

    std::vector<float> scores(llama_context * lctx, llama_seq_id seq_id) { return evictor.scores(lctx, kv.get_stream(seq_id)); }

    capkv_observer & get_observer() { return observer; }
    capkv_evictor  & get_evictor()  { return evictor; }

    //
    // what tests and the C API read
    //

    const capkv_params             & get_params()   const { return params; }
    const std::vector<capkv_layer> & get_layers()   const { return layers; }
    const capkv_observer           & get_observer() const { return observer; }

    uint32_t n_stream() const { return kv.get_n_stream(); }
    uint32_t n_used(llama_seq_id seq_id) const { return kv.get_cells(seq_id).get_used(); }

    // first position of the tail; 0 = nothing was evicted
    llama_pos pos_tail(llama_seq_id seq_id) const { return positions.pos_tail(kv.get_stream(seq_id)); }

    const capkv_pins::stream & get_pins(llama_seq_id seq_id) const { return pins.get(kv.get_stream(seq_id)); }

    // [n_layers], of the last eviction
    const std::vector<capkv_capacity> & capacities(llama_seq_id seq_id) const { return evictor.get(kv.get_stream(seq_id)).cap.get(); }

    void add_stats(llama_seq_id seq_id, capkv_stats & stats) const;

    // positions of the tokens that a KV head holds, ascending; rope: those that their keys are rotated to
    std::vector<llama_pos> head_positions(llama_seq_id seq_id, const capkv_layer & l, int64_t head_kv, bool rope = false) const;

private:
    capkv_length length;

    llama_kv_cache & kv;

    const capkv_params   params;
    const capkv_policy & policy;
    const llama_pos      n_swa; // of the other layers' windows

    const std::vector<capkv_layer> layers;

    // each takes those before it by reference
    capkv_positions positions;
    capkv_pins      pins;
    capkv_observer  observer;
    capkv_evictor   evictor;
    capkv_state     state;

    // throws capkv_error if n tokens cannot be read without an eviction
    void check_focus_room(llama_seq_id seq_id, int64_t n) const;
};
