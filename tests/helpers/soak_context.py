"""The context that a soak runs on: llama.cpp's C API, with Llama in front of it where there is one sequence alone."""

import ctypes
import os
import time

from capkv_edge import Llama, _lib, stats  # isort: skip; it decides which llama.cpp is loaded
import llama_cpp
import numpy as np
from llama_cpp._logger import set_verbose


class Context:
    """A model and a context with a KV budget. Sequences are numbered from 0; states are uint8 arrays."""

    def __init__(self, path, *, policy, budget, batch, ctx, sequences, threads):
        set_verbose(False)
        self.llm = None
        ubatch = max(batch // 2, 1)
        if sequences == 1:
            kv = dict(kv_budget=budget, kv_policy=policy)
            some = dict(n_threads=threads, n_threads_batch=threads, verbose=False)
            self.llm = Llama(path, n_ctx=ctx, n_batch=batch, n_ubatch=ubatch, **kv, **some)
            self.model, self.ctx = self.llm._model.model, self.llm.ctx
        else:
            self._open(path, policy, budget, ctx * sequences, batch, ubatch, sequences, threads)
        self.n_seq, self.n_batch, self.n_ctx = sequences, batch, ctx
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.kv = stats.pointer(self.ctx)
        self.config = stats.config_of(self.kv)
        self.heads = [(il, h) for il in stats.layers_of(self.kv) for h in range(_lib.load()[1].capkv_n_head_kv(self.kv, il))]
        self.batch = llama_cpp.llama_batch_init(batch, 0, 1)
        self.seconds = 0.0  # spent in llama_decode()

    def _open(self, path, policy, budget, n_ctx, batch, ubatch, sequences, threads):
        ffi, lib = _lib.load()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self.model:
            raise ValueError(f"cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, batch, ubatch, sequences
        params.n_threads = params.n_threads_batch = threads
        wanted = ffi.new("struct capkv_params *", lib.capkv_default_params())
        for name, value in (("budget", str(budget)), ("policy", policy)):
            if not lib.capkv_params_set(wanted, name.encode(), value.encode()):
                raise ValueError(_lib.last_error())
        lib.capkv_set_next_params(wanted)
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise ValueError(_lib.last_error())

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        if self.llm is not None:
            return self.llm.close()
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    # --- tokens ---

    def decode(self, parts, all_logits=False) -> list:
        """Decode [(sequence, first position, token ids)] as one batch.

        Returns the logits that were asked for, of each part: float32 [n, n_vocab], n = 1 unless all_logits. None: it failed.
        """
        n, wanted = 0, []
        for seq, first, ids in parts:
            rows = []
            for i, token in enumerate(ids):
                self.batch.token[n], self.batch.pos[n], self.batch.n_seq_id[n] = int(token), first + i, 1
                self.batch.seq_id[n][0] = seq
                self.batch.logits[n] = all_logits or i + 1 == len(ids)
                if self.batch.logits[n]:
                    rows.append(n)
                n += 1
            wanted.append(rows)
        self.batch.n_tokens = n
        t_start = time.perf_counter()
        status = llama_cpp.llama_decode(self.ctx, self.batch)
        llama_cpp.llama_synchronize(self.ctx)
        self.seconds += time.perf_counter() - t_start
        if status != 0:
            return None
        return [np.stack([self._logits(i) for i in rows]) for rows in wanted]

    def _logits(self, i):
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, i), (self.n_vocab,))

    # --- what is asked ---

    def positions(self, seq) -> list:
        """Positions that each head holds, layer by layer."""
        return [stats.positions_of(self.kv, il, h, seq) for il, h in self.heads]

    def stats(self, seq):
        return stats.stats_of(self.kv, None, seq)

    def ends(self, seq) -> tuple:
        """llama.cpp's first and last position."""
        return llama_cpp.llama_memory_seq_pos_min(self.memory, seq), llama_cpp.llama_memory_seq_pos_max(self.memory, seq)

    # --- what is done ---

    def rm(self, seq, p0, p1) -> bool:
        return bool(llama_cpp.llama_memory_seq_rm(self.memory, seq, p0, p1))

    def cp(self, source, target) -> None:
        llama_cpp.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def clear(self, data: bool) -> None:
        llama_cpp.llama_memory_clear(self.memory, data)

    def compress(self, seq, n_budget) -> int:
        return stats.compress(self.kv, n_budget, seq)

    # --- states: of one sequence, or with seq = None of all ---

    def save(self, seq):
        api = llama_cpp
        size = api.llama_state_get_size(self.ctx) if seq is None else api.llama_state_seq_get_size(self.ctx, seq)
        data = np.empty(size, np.uint8)
        args = (self.ctx, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size)
        n = api.llama_state_get_data(*args) if seq is None else api.llama_state_seq_get_data(*args, seq)
        return data[:n]

    def load(self, data, seq) -> bool:
        args = (self.ctx, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), len(data))
        n = llama_cpp.llama_state_set_data(*args) if seq is None else llama_cpp.llama_state_seq_set_data(*args, seq)
        return n == len(data)

    def save_file(self, path, seq, ids) -> bool:
        path, tokens = os.fsencode(path), (ctypes.c_int32 * len(ids))(*ids)
        if seq is None:
            return bool(llama_cpp.llama_state_save_file(self.ctx, path, tokens, len(ids)))
        return llama_cpp.llama_state_seq_save_file(self.ctx, path, seq, tokens, len(ids)) > 0

    def load_file(self, path, seq, n_ids):
        """The token ids that the file came with, or None."""
        path, tokens, n = os.fsencode(path), (ctypes.c_int32 * n_ids)(), ctypes.c_size_t(0)
        if seq is None:
            done = llama_cpp.llama_state_load_file(self.ctx, path, tokens, n_ids, ctypes.byref(n))
        else:
            done = llama_cpp.llama_state_seq_load_file(self.ctx, path, seq, tokens, n_ids, ctypes.byref(n))
        return list(tokens[: n.value]) if done else None

    def save_session(self, path, ids) -> None:
        """Llama.save_session(), of a Llama that knows the token ids; one sequence alone."""
        self.llm.input_ids[: len(ids)] = ids
        self.llm.n_tokens = len(ids)
        self.llm.save_session(path)

    def load_session(self, path):
        self.llm.load_session(path)
        return self.llm.input_ids[: self.llm.n_tokens]
