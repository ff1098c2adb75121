"""Several sequences in one context with a budget, each with random tokens of its own."""

import numpy as np
from raw_context import RawContext

from capkv_edge import CapkvConfig


class Context(RawContext):
    """A context of n_seq sequences, on one thread. A token may belong to several of them. device: that holds the model and its cache;
    None: as llama.cpp places them. kv: options of the budget."""

    def __init__(self, path, n_seq=3, n_batch=32, n_ctx_seq=4096, kv_unified=False, type_k=1, type_v=1, device=None, **kv):
        self.n_seq, self.n_batch = n_seq, n_batch
        n_ctx = n_ctx_seq if kv_unified else n_ctx_seq * n_seq
        config = CapkvConfig(**{"budget": 64, "recent": 16, "type": "f16", **kv})
        fields = dict(kv_unified=kv_unified, type_k=type_k, type_v=type_v)
        super().__init__(path, config, n_ctx=n_ctx, n_batch=n_batch, n_seq=n_seq, n_shared=n_seq, device=device, **fields)
        self.layers = self.kv.layers

    def decode(self, rows) -> int:
        """rows of (sequence or several, position, token), all with logits; llama_decode()'s result."""
        return self.decode_rows([(seq if isinstance(seq, tuple) else (seq,), pos, token, True) for seq, pos, token in rows])

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

    def save(self, seq) -> bytes:
        return self.get(seq)


def same(a, b) -> bool:
    """Two lists of positions."""
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
