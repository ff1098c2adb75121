"""The context that a soak runs on: llama.cpp's C API, with Llama in front of it where there is only one sequence."""

import time

import llama_cpp
import numpy as np
from raw_context import RawContext

from capkv_edge import CapkvConfig, Llama


class Context(RawContext):
    """A model and a context with a KV budget. Sequences are numbered from 0; n_ctx is the length of each."""

    def __init__(self, path, *, policy, budget, batch, ctx, sequences, threads, reindex="auto"):
        self.llm, n_ubatch = None, max(batch // 2, 1)
        if sequences == 1:
            kv = dict(kv_budget=budget, kv_policy=policy, kv_reindex=reindex)
            some = dict(n_threads=threads, n_threads_batch=threads, verbose=False)
            self.llm, self.model = Llama(path, n_ctx=ctx, n_batch=batch, n_ubatch=n_ubatch, **kv, **some), None
            self.use(self.llm.ctx, batch)
        else:
            sizes = dict(n_ctx=ctx * sequences, n_batch=batch, n_ubatch=n_ubatch, n_seq=sequences, n_threads=threads)
            super().__init__(path, CapkvConfig(budget=budget, policy=policy, reindex=reindex), **sizes)
        self.n_seq, self.n_batch, self.n_ctx = sequences, batch, ctx
        self.config, self.heads = self.kv.config, self.kv.heads
        self.seconds = 0.0  # spent in llama_decode()

    def close(self):
        super().close()
        if self.llm is not None:
            self.llm.close()

    # --- tokens ---

    def decode(self, parts, all_logits=False) -> list:
        """Decode [(sequence, first position, token ids)] as one batch.

        Returns the logits that were asked for, of each part: float32 [n, n_vocab], n = 1 unless all_logits. None: it failed.
        """
        rows, wanted = [], []
        for seq, first, ids in parts:
            some = range(len(ids)) if all_logits else [len(ids) - 1]
            wanted.append([len(rows) + i for i in some])
            rows += [((seq,), first + i, int(token), i in some) for i, token in enumerate(ids)]
        t_start = time.perf_counter()
        status = self.decode_rows(rows)
        llama_cpp.llama_synchronize(self.ctx)
        self.seconds += time.perf_counter() - t_start
        if status != 0:
            return None
        return [np.stack([self.logits(i) for i in some]) for some in wanted]

    # --- the memory ---

    def positions(self, seq) -> list:
        """Positions that each head holds, layer by layer."""
        return [self.kv.positions(layer, head, seq) for layer, head in self.heads]

    def rope_positions(self, seq) -> list:
        """The positions that the keys of each head are rotated to, layer by layer."""
        return [self.kv.positions(layer, head, seq, rope=True) for layer, head in self.heads]

    def pins(self, seq) -> list:
        return self.kv.pins(seq)

    def pin(self, seq, start, stop) -> None:
        self.kv.pin(start, stop, seq)

    def unpin(self, seq, start, stop) -> None:
        self.kv.unpin(start, stop, seq)

    def ends(self, seq) -> tuple:
        """llama.cpp's first and last position."""
        return self.pos_min(seq), self.pos_max(seq)

    # --- states: of one sequence, or with seq = None of all ---

    def save(self, seq) -> bytes:
        return self.get(seq)

    def load(self, data, seq) -> bool:
        return self.set(data, seq) == len(data)

    def load_file(self, path, seq, n_ids):
        """The token ids that the file came with, or None."""
        done, ids = super().load_file(path, seq, n_ids)
        return ids if done else None

    def save_session(self, path, ids) -> None:
        """Llama.save_session(), of a Llama that knows the token ids; only where there is one sequence."""
        self.llm.input_ids = np.array(ids, dtype=np.intc)
        self.llm.n_tokens = len(ids)
        self.llm.save_session(path)

    def load_session(self, path):
        self.llm.load_session(path)
        return self.llm.input_ids[: self.llm.n_tokens]
