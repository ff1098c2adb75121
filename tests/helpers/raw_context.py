"""A context with a KV budget, driven through llama.cpp's C API without the Python class in front of it."""

import ctypes
import os

from capkv_edge import _log  # isort: skip; it decides which llama.cpp is loaded
import llama_cpp
import numpy as np

from capkv_edge._upstream import library
from capkv_edge.context import open_context
from capkv_edge.devices import ALL_LAYERS
from capkv_edge.kv import KvCache


PARTIAL_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


def find_device(name: str):
    """A ggml device, `ggml_backend_dev_t`. Raises ValueError: there is none of that name."""
    find = library().ggml_backend_dev_by_name
    find.argtypes, find.restype = [ctypes.c_char_p], ctypes.c_void_p
    found = find(name.encode())
    if not found:
        raise ValueError(f"no device {name}")
    return found


def load_model(path, device=None):
    """A model, `llama_model *`: all of it on one ggml device ("CPU", "Vulkan0"), or as llama.cpp places it.

    Raises:
        ValueError: it cannot be loaded, or there is no such device.
    """
    params = llama_cpp.llama_model_default_params()
    if device is not None:
        # a list that NULL ends; llama.cpp adds the CPU by itself
        devices = (ctypes.c_void_p * 2)(None if device == "CPU" else find_device(device), None)
        params.devices, params.n_gpu_layers = ctypes.addressof(devices), ALL_LAYERS
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ValueError(f"cannot load {path}")
    return model


class RawContext:
    """A model, a context on it, and a batch that is filled row by row.

    Args:
        path: of the model.
        config: its budget, a CapkvConfig.
        n_ctx: positions of all sequences together.
        n_shared: to how many sequences a token may belong.
        device: that holds the model and its cache; None: as llama.cpp places them.
        fields: further fields of llama_context_params.

    Raises:
        ValueError: the model or the context cannot be opened; the message is the reason.
    """

    def __init__(self, path, config, *, n_ctx, n_batch, n_seq, n_shared=1, device=None, **fields):
        _log.show(False)
        self.model = load_model(path, device)
        sizes = {"n_ctx": n_ctx, "n_batch": n_batch, "n_ubatch": n_batch, "n_seq_max": n_seq, **fields}
        self.use(open_context(self.model, config, **sizes), n_batch, n_shared)

    def use(self, ctx, n_batch, n_shared=1):
        """Work on an open context; close() frees the batch alone where there is no `model`."""
        self.ctx, self.memory, self.kv = ctx, llama_cpp.llama_get_memory(ctx), KvCache(ctx)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(ctx)))
        self.batch = llama_cpp.llama_batch_init(n_batch, 0, n_shared)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        if self.model:
            llama_cpp.llama_free(self.ctx)
            llama_cpp.llama_model_free(self.model)

    # --- tokens ---

    def decode_rows(self, rows) -> int:
        """Decode rows of (sequences, position, token, whether its logits are wanted) as one batch; llama_decode()'s result."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (seqs, pos, token, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos, len(seqs), wanted
            for j, seq in enumerate(seqs):
                batch.seq_id[i][j] = seq
        return llama_cpp.llama_decode(self.ctx, batch)

    def logits(self, i) -> np.ndarray:
        """Of row i of the last batch: float32 [n_vocab], a copy."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, i), (self.n_vocab,)).copy()

    # --- the memory ---

    def pos_min(self, seq) -> int:
        return llama_cpp.llama_memory_seq_pos_min(self.memory, seq)

    def pos_max(self, seq) -> int:
        return llama_cpp.llama_memory_seq_pos_max(self.memory, seq)

    def rm(self, seq, p0, p1) -> bool:
        return bool(llama_cpp.llama_memory_seq_rm(self.memory, seq, p0, p1))

    def cp(self, source, target, p0=-1, p1=-1) -> None:
        llama_cpp.llama_memory_seq_cp(self.memory, source, target, p0, p1)

    def clear(self, data: bool) -> None:
        llama_cpp.llama_memory_clear(self.memory, data)

    def compress(self, seq, n_budget=0) -> int:
        return self.kv.compress(n_budget, seq)

    def stats(self, seq):
        return self.kv.stats(seq)

    def held(self, seq=0) -> list:
        """The positions that each head of each layer holds: one array per head."""
        return [self.kv.positions(layer, head, seq) for layer, head in self.kv.heads]

    def rope(self, seq=0) -> list:
        """The positions that their keys are rotated to."""
        return [self.kv.positions(layer, head, seq, rope=True) for layer, head in self.kv.heads]

    # --- states: of one sequence, or with seq = None of all ---

    def get(self, seq=None) -> bytes:
        api = llama_cpp
        size = api.llama_state_get_size(self.ctx) if seq is None else api.llama_state_seq_get_size(self.ctx, seq)
        data = (ctypes.c_uint8 * size)()
        args = (self.ctx, data, size)
        assert (api.llama_state_get_data(*args) if seq is None else api.llama_state_seq_get_data(*args, seq)) == size
        return bytes(data)

    def set(self, data: bytes, seq=None) -> int:
        """How many bytes were read; 0 where the state is refused."""
        args = (self.ctx, (ctypes.c_uint8 * len(data)).from_buffer_copy(data), len(data))
        return llama_cpp.llama_state_set_data(*args) if seq is None else llama_cpp.llama_state_seq_set_data(*args, seq)

    def get_part(self, seq) -> bytes:
        """The layers that no rollback brings back: those with sliding windows, and the recurrent ones."""
        size = llama_cpp.llama_state_seq_get_size_ext(self.ctx, seq, PARTIAL_ONLY)
        data = (ctypes.c_uint8 * size)()
        assert llama_cpp.llama_state_seq_get_data_ext(self.ctx, data, size, seq, PARTIAL_ONLY) == size
        return bytes(data)

    def set_part(self, data: bytes, seq) -> int:
        data = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        return llama_cpp.llama_state_seq_set_data_ext(self.ctx, data, len(data), seq, PARTIAL_ONLY)

    def save_file(self, path, seq, ids) -> int:
        """True or the number of bytes; 0 where it failed. ids: the tokens that the state is of."""
        path, tokens = os.fsencode(path), (ctypes.c_int32 * len(ids))(*ids)
        if seq is None:
            return llama_cpp.llama_state_save_file(self.ctx, path, tokens, len(ids))
        return llama_cpp.llama_state_seq_save_file(self.ctx, path, seq, tokens, len(ids))

    def load_file(self, path, seq, n_ids) -> tuple:
        """(what save_file() returned, or 0 where the file is refused; its token ids, at most n_ids)."""
        path, tokens, n = os.fsencode(path), (ctypes.c_int32 * n_ids)(), ctypes.c_size_t(0)
        if seq is None:
            done = llama_cpp.llama_state_load_file(self.ctx, path, tokens, n_ids, ctypes.byref(n))
        else:
            done = llama_cpp.llama_state_seq_load_file(self.ctx, path, seq, tokens, n_ids, ctypes.byref(n))
        return done, tokens[: n.value]
