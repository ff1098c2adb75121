"""What a slot that llama-server saved holds, read by libllama in this process."""

import ctypes
from pathlib import Path

import numpy as np

from capkv_edge import _lib

N_MAX = 4096


def read_slot(path: Path, model: Path, n_slots: int, monkeypatch) -> tuple[list, list]:
    """Its tokens, and for each head of each layer the positions held; the budget is that of the server, 128."""
    ffi, lib = _lib.load()
    import llama_cpp.llama_cpp as native  # after the library's own place is known

    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "128")
    llama = native.llama_model_load_from_file(str(model).encode(), native.llama_model_default_params())
    params = native.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = N_MAX * n_slots, 64, 64, n_slots
    params.n_threads = params.n_threads_batch = 1
    ctx = native.llama_init_from_model(llama, params)
    try:
        tokens, n_tokens = (native.llama_token * N_MAX)(), ctypes.c_size_t()
        size = native.llama_state_seq_load_file(ctx, str(path).encode(), 0, tokens, N_MAX, ctypes.byref(n_tokens))
        assert size == path.stat().st_size
        mark, _, n_text = tokens[:3]
        assert mark == -1, "not how the server lays out a slot's tokens"

        address = ffi.cast("struct llama_context *", ctx)
        layers, heads, buffer = ffi.new("int32_t[]", 64), [], ffi.new("int32_t[]", N_MAX)
        for layer in layers[0 : lib.capkv_get_layers(address, layers, 64)]:
            for head in range(lib.capkv_n_head_kv(address, layer)):
                n = lib.capkv_get_positions(address, 0, layer, head, buffer, N_MAX)
                heads.append(np.array(list(buffer[0:n])))
        return list(tokens[3 : 3 + n_text]), heads
    finally:
        native.llama_free(ctx)
        native.llama_model_free(llama)
