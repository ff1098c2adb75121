"""Several sequences in one context with a budget, through llama.cpp's own API."""

import llama_cpp
import numpy as np
import saved_state

from capkv_edge import _lib, stats


class Context:
    """A model and a context of n_seq sequences, on one thread. Tokens are random; each sequence has its own series."""

    def __init__(self, path, n_seq=3, n_batch=32, n_ctx_seq=4096, kv_unified=False, **kv):
        ffi, lib = _lib.load()
        self.n_seq, self.n_batch = n_seq, n_batch
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self.model
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = ffi.new("struct capkv_params *", lib.capkv_default_params())
        for name, value in {"budget": 64, "recent": 16, **kv}.items():
            assert lib.capkv_params_set(params, name.encode(), str(value).encode()), _lib.last_error()
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = n_ctx_seq if kv_unified else n_ctx_seq * n_seq
        options.n_batch = options.n_ubatch = n_batch
        options.n_threads = options.n_threads_batch = 1
        options.n_seq_max, options.kv_unified = n_seq, kv_unified
        lib.capkv_set_next_params(params)
        self.ctx = llama_cpp.llama_init_from_model(self.model, options)
        assert self.ctx, _lib.last_error()
        self.mem = llama_cpp.llama_get_memory(self.ctx)
        self.kv = stats.pointer(self.ctx)
        self.layers = stats.layers_of(self.kv)
        self.batch = llama_cpp.llama_batch_init(n_batch, 0, n_seq)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def decode(self, rows) -> int:
        """rows of (sequence or several, position, token); llama_decode()'s result."""
        self.batch.n_tokens = len(rows)
        for i, (seq, pos, token) in enumerate(rows):
            ids = seq if isinstance(seq, tuple) else (seq,)
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i], self.batch.logits[i] = token, pos, len(ids), 1
            for j, one in enumerate(ids):
                self.batch.seq_id[i][j] = one
        return llama_cpp.llama_decode(self.ctx, self.batch)

    def logits(self, i) -> np.ndarray:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, i), (self.n_vocab,)).copy()

    def token(self, pos, seed) -> int:
        return int(np.random.default_rng((seed, pos)).integers(3, self.n_vocab))

    def read(self, n, *seqs, seed=None):
        """n tokens more for each of the sequences, in batches that mix them; the logits of their last tokens."""
        done = {s: 0 for s in seqs}
        last = {}
        while any(k < n for k in done.values()):
            rows = []
            for s in seqs:
                m = min(n - done[s], self.n_batch // len(seqs))
                start = self.pos_max(s) + 1
                rows += [(s, start + i, self.token(start + i, s if seed is None else seed)) for i in range(m)]
                done[s] += m
            assert self.decode(rows) == 0
            for i, (s, _, _) in enumerate(rows):
                last[s] = i
        return [self.logits(last[s]) for s in seqs]

    def pos_min(self, seq):
        return llama_cpp.llama_memory_seq_pos_min(self.mem, seq)

    def pos_max(self, seq):
        return llama_cpp.llama_memory_seq_pos_max(self.mem, seq)

    def rm(self, seq, p0, p1) -> bool:
        return llama_cpp.llama_memory_seq_rm(self.mem, seq, p0, p1)

    def cp(self, source, target, p0=-1, p1=-1):
        llama_cpp.llama_memory_seq_cp(self.mem, source, target, p0, p1)

    def compress(self, seq, budget=0):
        return stats.compress(self.kv, budget, seq)

    def stats(self, seq):
        return stats.stats_of(self.kv, None, seq)

    def held(self, seq) -> list:
        """Positions of each head of each layer."""
        heads = _lib.load()[1].capkv_n_head_kv
        return [stats.positions_of(self.kv, il, h, seq) for il in self.layers for h in range(heads(self.kv, il))]

    def save(self, seq) -> bytes:
        return saved_state.save(self.ctx, seq)


def same(a, b) -> bool:
    """Two lists of positions."""
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
