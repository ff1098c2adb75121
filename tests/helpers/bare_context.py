"""A context driven through llama.cpp's C API, without the Python class in front of it."""

import ctypes
import os

import llama_cpp
import numpy as np
from llama_cpp._logger import set_verbose

from capkv_edge import _lib, stats

N_SEQ = 4


class Context:
    """A bare llama_context with a budget of 64 and N_SEQ sequences, and greedy decoding on it. kv: options by name, as text or number."""

    def __init__(self, path, policy="capkv", **kv):
        ffi, lib = _lib.load()
        set_verbose(False)
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 2048 * N_SEQ, 32, 32, N_SEQ
        params.n_threads = params.n_threads_batch = 1
        wanted = ffi.new("struct capkv_params *", lib.capkv_default_params())
        wanted.n_budget, wanted.policy = 64, policy.encode()
        for name, value in kv.items():
            assert lib.capkv_params_set(wanted, name.encode(), str(value).encode()), _lib.last_error()
        lib.capkv_set_next_params(wanted)
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        assert self.ctx, _lib.last_error()
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.batch = llama_cpp.llama_batch_init(32, 0, 1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def end(self, seq=0):
        return llama_cpp.llama_memory_seq_pos_max(self.memory, seq) + 1

    def decode(self, tokens, seq=0):
        """What llama_decode says to at most 32 tokens."""
        first, self.batch.n_tokens = self.end(seq), len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i] = token, first + i, 1
            self.batch.seq_id[i][0], self.batch.logits[i] = seq, i + 1 == len(tokens)
        return llama_cpp.llama_decode(self.ctx, self.batch)

    def read(self, tokens, seq=0):
        for i in range(0, len(tokens), 32):
            assert self.decode(tokens[i : i + 32], seq) == 0

    def go_on(self, n, seq=0, token=5):
        """Token ids and the last logits."""
        out = []
        for _ in range(n):
            assert self.decode([token], seq) == 0
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, -1), (259,)).copy()
            token = int(logits.argmax())
            out.append(token)
        return out, logits.tobytes()

    def positions(self, seq=0):
        held = []
        for layer in (0, 1):
            for head in (0, 1):
                held.append(stats.positions_of(stats.pointer(self.ctx), layer, head, seq).tolist())
        return held

    def get(self, seq=None):
        api = llama_cpp
        size = api.llama_state_get_size(self.ctx) if seq is None else api.llama_state_seq_get_size(self.ctx, seq)
        data = (ctypes.c_uint8 * size)()
        args = (self.ctx, data, size)
        assert (api.llama_state_get_data(*args) if seq is None else api.llama_state_seq_get_data(*args, seq)) == size
        return bytes(data)

    def set(self, data, seq=None):
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        args = (self.ctx, buffer, len(data))
        return llama_cpp.llama_state_set_data(*args) if seq is None else llama_cpp.llama_state_seq_set_data(*args, seq)

    def save(self, path, seq=None, tokens=(1, 2, 3)):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        if seq is None:
            return llama_cpp.llama_state_save_file(self.ctx, os.fsencode(path), ids, len(tokens))
        return llama_cpp.llama_state_seq_save_file(self.ctx, os.fsencode(path), seq, ids, len(tokens))

    def load(self, path, seq=None):
        ids, n = (ctypes.c_int32 * 3)(), ctypes.c_size_t(0)
        if seq is None:
            done = llama_cpp.llama_state_load_file(self.ctx, os.fsencode(path), ids, 3, ctypes.byref(n))
        else:
            done = llama_cpp.llama_state_seq_load_file(self.ctx, os.fsencode(path), seq, ids, 3, ctypes.byref(n))
        return bool(done) and ids[: n.value] == [1, 2, 3]
