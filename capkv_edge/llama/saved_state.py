"""Saving and loading the state of a Llama, without the n_ctx tokens and n_batch x n_vocab scores that upstream copies."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as native
from llama_cpp.llama import LlamaState

from .. import _lib, _log


def take(llm: Any) -> memoryview:
    """The native state of a Llama.

    Raises:
        RuntimeError: llama.cpp could not write its state.
    """
    llm._drop_unread()
    _log.forget()
    size = native.llama_state_get_size(llm.ctx)
    buffer = bytearray(size)
    n = native.llama_state_get_data(llm.ctx, (ctypes.c_uint8 * size).from_buffer(buffer), size)
    if n == 0 or n > size:
        raise RuntimeError(f"cannot save the state: {_log.reason(_lib.last_error())}")
    return memoryview(buffer)[:n]


def put(llm: Any, data: Any, tokens: Sequence[int] | Any, seed: int) -> None:
    """Load a native state into a Llama.

    Args:
        data: the state, as take() gave it.
        tokens: the ids of the tokens that were read, int [n].
        seed: of the sampling.

    Raises:
        ValueError: llama.cpp refuses the state. The Llama is empty then, and can be used.
    """
    _log.forget()
    llm._n_changes += 1
    n_tokens = len(tokens)
    buffer = np.frombuffer(data, dtype=np.uint8)
    n_read = native.llama_state_set_data(llm.ctx, buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), len(buffer))
    n_held = native.llama_memory_seq_pos_max(native.llama_get_memory(llm.ctx), 0) + 1
    if n_read != len(buffer) or n_read == 0 or n_held != n_tokens:
        complete = n_read == len(buffer)
        reason = f"it says {n_tokens} tokens and holds {n_held}" if complete else _log.reason(_lib.last_error())
        native.llama_memory_clear(native.llama_get_memory(llm.ctx), True)  # some cells may belong to no sequence
        llm.reset()
        raise ValueError(f"the state does not fit: {reason}")
    llm.input_ids = np.array(tokens, dtype=np.intc)
    llm.n_tokens = n_tokens
    llm._has_logits = False
    llm.set_seed(seed)
    llm._kept_logits.clear()


def save(llm: Any) -> LlamaState:
    """The state of a Llama: token ids [n_tokens], the native state, the seed. Raises as take()."""
    data = take(llm)
    return LlamaState(
        scores=np.empty((0, llm.n_vocab()), dtype=np.single),
        input_ids=llm.input_ids[: llm.n_tokens].copy(),
        n_tokens=llm.n_tokens,
        llama_state=bytes(data),
        llama_state_size=len(data),
        seed=llm._sampling_seed,
    )


def load(llm: Any, state: LlamaState) -> None:
    """Load a saved state into a Llama.

    Raises:
        ValueError: the state does not fit this model or configuration, or is damaged. The Llama is empty then, and can be used.
    """
    n_tokens, data = state.n_tokens, state.llama_state
    if len(data) != state.llama_state_size or not 0 <= n_tokens <= len(state.input_ids):
        found = f"{len(data)} bytes and {len(state.input_ids)} tokens"
        raise ValueError(f"the state does not fit: it has {found} where it says {state.llama_state_size} and {n_tokens}")
    put(llm, data, state.input_ids[:n_tokens], state.seed)
