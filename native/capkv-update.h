#pragma once

#include "capkv-memory.h"

#include "llama-memory.h"

//
// what has to be done in all caches of a context, between its batches
//

// seq_cp() between streams copies cells with the next batch: copy them now, in all caches, after the batch that is still computed.
// A state that is written or read, and an eviction, cannot wait
void capkv_apply_pending_copies(llama_context & lctx);

// rotate sliding windows that were read from a state: before the next batch, or before a state is written
void capkv_shift_windows_read(llama_context & lctx);

// empty the sequence, or with -1 all of them, and zero its cells, whatever they hold
void capkv_drop(llama_memory_i * mem, llama_seq_id seq_id);
