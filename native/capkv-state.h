#pragma once

#include "capkv-evict.h"
#include "capkv-observe.h"
#include "capkv-pins.h"
#include "capkv-positions.h"

#include "llama-io.h"

#include <memory>
#include <vector>

//
// capkv_state: what a saved state holds of a budget
//
// llama_kv_cache calls it around its own part: the counts and tables come before its cells, the tensors of observed queries after them.
// A frame around the whole state lets damage be refused before any of this is read (capkv-state-io.cpp).
//

// no position of a state may be greater: they leave room for a text to go on
static constexpr llama_pos CAPKV_STATE_MAX_POS = 1 << 30;

class capkv_state {
public:
    capkv_state(
            llama_kv_cache & kv, const capkv_params & params, const std::vector<capkv_layer> & layers,
            capkv_positions & positions, capkv_pins & pins, capkv_observer & observer, capkv_evictor & evictor);

    // of one sequence, or with -1 of all
    void write_meta(llama_io_write_i & io, llama_seq_id seq_id) const;
    void write_data(llama_io_write_i & io, llama_seq_id seq_id) const;

    // a read that breaks off before read_data() leaves the sequence empty: keep what read_meta() returns until then
    struct guard {
        capkv_state & state;
        llama_seq_id  seq_id;

        ~guard();
    };

    // both throw capkv_error if the state does not fit this context; the streams are only set at the end of read_data()
    std::unique_ptr<guard> read_meta(llama_io_read_i & io, llama_seq_id seq_id);
    void                   read_data(llama_io_read_i & io, llama_seq_id seq_id);

    // throws: the keys or values of the state (what) are of another type than the cells here
    [[noreturn]] void refuse_type(const char * what, int32_t found, ggml_type here) const;

private:
    llama_kv_cache & kv;

    const capkv_params             & params;
    const std::vector<capkv_layer> & layers;

    capkv_positions & positions;
    capkv_pins      & pins;
    capkv_observer  & observer;
    capkv_evictor   & evictor;

    // of a stream
    struct part {
        capkv_positions::stream pos;
        capkv_observer::stream  obs;
        capkv_evictor::stream   evi;
        capkv_pins::stream      pin;
    };

    // read by read_meta(), waiting for read_data()
    std::vector<part> parts_read;
    uint32_t          version_read = 0;

    void write_stream(llama_io_write_i & io, uint32_t s) const;
    part read_stream (llama_io_read_i & io) const;
};
