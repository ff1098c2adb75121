"""One sequence in one context: reads tokens, gives rows of logits, generates tokens, and goes back to a mark."""

import ctypes
import os
from pathlib import Path

import llama_cpp
import numpy as np

from ... import _log
from ...kv import KvCache
from ...recall.held import Held
from .setups import SHIFT, Setup

STEPS = ("score", "select", "compact")  # of an eviction
TIMES = tuple(f"t_{name}_us" for name in ("evict", *STEPS))  # in KvStats

N_KEEP = 4  # first tokens that a context shift keeps: as many as the sinks of a budget


class Stream:
    """Made by Engine.open(). `setup` is resolved: its budget is a number. It takes n_ctx + n_more tokens."""

    def __init__(self, engine, setup: Setup, n_ctx: int, n_batch: int | None = None, n_more: int = 0, repeats: bool = False):
        self.engine, self.setup, self.n_ctx = engine, setup, n_ctx
        self.n_batch = n_batch or setup.n_batch
        self.n_tokens = 0  #: tokens read so far
        self._n_cells = setup.n_cells if setup.policy == SHIFT else n_ctx + n_more
        self._n_past = 0  # next position: n_tokens less the tokens that context shifts removed
        self._n_shifted = self._n_shifts = 0
        # a budget reads on past the trained length, in a context without an end
        n_cells = 0 if setup.on and n_ctx > engine.n_ctx_train else self._n_cells
        self.ctx = engine.make_context(setup, n_cells, self.n_batch, 2 if repeats else 1)
        self._memory = llama_cpp.llama_get_memory(self.ctx)
        self._tokens = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        self._ids, self._pos, self._n_seq, self._logits = (
            np.ctypeslib.as_array(array, (self.n_batch,))
            for array in (self._tokens.token, self._tokens.pos, self._tokens.n_seq_id, self._tokens.logits)
        )
        self._n_seq[:] = 1
        for i in range(self.n_batch):
            self._tokens.seq_id[i][0] = 0
        self._kv = KvCache(self.ctx) if setup.on else None

    def close(self) -> None:
        """Free the context; safe to call twice."""
        if self.ctx:
            llama_cpp.llama_batch_free(self._tokens)
            llama_cpp.llama_free(self.ctx)
            self.ctx = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- reading ---

    def read(self, tokens, scored=None, use=None) -> None:
        """Read tokens.

        Args:
            tokens: ids, int [n].
            scored: indices in the stream of the tokens whose logits are wanted, ascending, int [m].
            use: called after each batch that has some, with (indices int [k], rows float32 [k, n_vocab]). The rows are a view
                that the next batch overwrites.

        Raises:
            RuntimeError: llama.cpp could not decode a batch.
        """
        tokens = np.asarray(tokens, dtype=np.int32)
        scored = np.asarray(() if scored is None else scored, dtype=np.int64)
        for i in range(0, len(tokens), self.n_batch):
            part = tokens[i : i + self.n_batch]
            wanted = scored[(scored >= self.n_tokens) & (scored < self.n_tokens + len(part))]
            self._decode(part, wanted - self.n_tokens)
            if len(wanted):
                use(wanted, self._rows(len(wanted)))
            self.n_tokens += len(part)

    def _decode(self, part, wanted) -> None:
        n = len(part)
        if self._n_past + n > self._n_cells and self.setup.policy == SHIFT:
            self._shift(self._n_past + n - self._n_cells)
        self._ids[:n], self._pos[:n] = part, np.arange(self._n_past, self._n_past + n)
        self._logits[:n] = 0
        self._logits[wanted] = 1
        self._logits[n - 1] = 1
        self._tokens.n_tokens = n
        status = llama_cpp.llama_decode(self.ctx, self._tokens)
        if status != 0:
            raise RuntimeError(f"{self.setup.name}: llama_decode gave {status} at token {self.n_tokens} of {self.n_ctx}")
        self._n_past += n
        _log.raise_interrupt()

    def _rows(self, n: int) -> np.ndarray:
        logits = llama_cpp.llama_get_logits(self.ctx)
        return np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (n, self.engine.n_vocab))

    def _shift(self, n_needed: int) -> None:
        # as llama.cpp's tools do it: remove half of the tokens behind the first N_KEEP, and shift the others to their positions
        n_discard = max(n_needed, (self._n_past - N_KEEP) // 2)
        llama_cpp.llama_memory_seq_rm(self._memory, 0, N_KEEP, N_KEEP + n_discard)
        llama_cpp.llama_memory_seq_add(self._memory, 0, N_KEEP + n_discard, self._n_past, -n_discard)
        self._n_past -= n_discard
        self._n_shifted += n_discard
        self._n_shifts += 1

    def last(self) -> np.ndarray:
        """Logits after the last token: float32 [n_vocab], a view."""
        row = llama_cpp.llama_get_logits_ith(self.ctx, -1)
        return np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self.engine.n_vocab,))

    def generate(self, n_max: int, stop=()) -> list:
        """The most likely tokens after those that were read: at most n_max, and none from the first on that ends the reply or is in
        `stop`. The last of them is not read."""
        out = []
        while len(out) < n_max:
            token = int(self.last().argmax())
            if self.engine.is_eog(token) or token in stop:
                break
            out.append(token)
            if len(out) < n_max:
                self.read([token])
        return out

    # --- evicting, going back ---

    def compress(self) -> None:
        """Evict down to the budget now; does nothing in a setup without a policy."""
        if self._kv is not None:
            self._kv.compress()

    def held(self) -> Held:
        """What each KV head holds now."""
        return Held(self._kv)

    @property
    def n_gone(self) -> int:
        """Every head holds every token from this position on. Without a policy none is taken to be held: all that was read."""
        return self._kv.stats().pos_tail if self._kv is not None else self.n_tokens

    def pin(self, start: int, stop: int) -> None:
        """Never evict the tokens [start, stop), in a setup with a policy. Raises ValueError where the budget has no room for them."""
        try:
            self._kv.pin(start, stop)
        except ValueError as err:
            raise ValueError(f"setup = {self.setup.name}: {err}") from None

    @property
    def can_focus(self) -> bool:
        """Whether a question can take part in the evictions: the setup's policy keeps a sample of queries."""
        return self._kv is not None and self._kv.n_focus_max > 0

    def focus(self, tokens) -> None:
        """Let a question take part in the evictions of the text to come. Raises ValueError where there is no room to read it."""
        try:
            self._kv.focus(tokens)
        except ValueError as err:
            raise ValueError(f"setup = {self.setup.name}: {err}") from None

    @property
    def _here(self) -> tuple:
        return self.n_tokens, self._n_past, self._n_shifted, self._n_shifts

    def mark(self):
        """What back() needs to return to this point, any number of times. It has no logits: after back(), read a token first."""
        here = self._here
        if self.setup.policy is None:
            return here, None
        size = llama_cpp.llama_state_seq_get_size(self.ctx, 0)
        data = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self.ctx, data, size, 0) != size:
            raise RuntimeError(f"{self.setup.name}: the state of {self.n_tokens} tokens could not be saved")
        if self.setup.policy == SHIFT:  # restoring moves cells: restore once now, so that all returns start from the same cells
            self.back((here, data))
        return here, data

    def back(self, mark) -> None:
        """Return to a mark of this stream. Raises RuntimeError if the context refuses."""
        here, data = mark
        if data is None:
            done = llama_cpp.llama_memory_seq_rm(self._memory, 0, here[1], -1)
        else:
            llama_cpp.llama_memory_seq_rm(self._memory, 0, -1, -1)
            done = llama_cpp.llama_state_seq_set_data(self.ctx, data, len(data), 0) > 0
        if not done:
            raise RuntimeError(f"{self.setup.name}: cannot go back to token {here[0]}")
        self.n_tokens, self._n_past, self._n_shifted, self._n_shifts = here

    def save(self, path: Path) -> None:
        """Write all that was read to a file, for load(). Raises RuntimeError where llama.cpp cannot write it."""
        here = self._here  # as the tokens of the file, which llama.cpp keeps as they are
        if not llama_cpp.llama_state_seq_save_file(self.ctx, os.fsencode(path), 0, (llama_cpp.llama_token * len(here))(*here), len(here)):
            raise RuntimeError(f"{self.setup.name}: the state of {self.n_tokens} tokens could not be written to {path}")

    def load(self, path: Path, seq: int = 0) -> None:
        """Return to what save() wrote, in a context of the same sizes. Raises RuntimeError where llama.cpp refuses the file."""
        here, n = (llama_cpp.llama_token * len(self._here))(), ctypes.c_size_t()
        if not llama_cpp.llama_state_seq_load_file(self.ctx, os.fsencode(path), seq, here, len(here), ctypes.byref(n)):
            raise RuntimeError(f"{self.setup.name}: {path} could not be read")
        self.n_tokens, self._n_past, self._n_shifted, self._n_shifts = here

    def repeat(self, path: Path, n: int) -> None:
        """Hold what save() wrote n times, all at the same positions, in a stream that was opened with `repeats` and has no policy.
        It is no text that a model has read, but takes as long to attend to.

        Raises:
            RuntimeError: llama.cpp refuses the file.
        """
        memory = self._memory
        self.load(path)
        for _ in range(1, n):  # not moved: llama.cpp cannot shift quantized keys of every head size
            self.load(path, seq=1)
            llama_cpp.llama_memory_seq_cp(memory, 1, 0, -1, -1)
            llama_cpp.llama_memory_seq_rm(memory, 1, -1, -1)
        self.n_tokens *= n

    def clear(self) -> None:
        """Forget all that was read; the context stays as warm as it is."""
        llama_cpp.llama_memory_seq_rm(self._memory, 0, -1, -1)
        self.n_tokens = self._n_past = self._n_shifted = self._n_shifts = 0

    def memory(self, n_more: int | None = None) -> dict:
        """Figures of the sequence: bytes_kv, bytes_obs, bytes_total, bytes_full (of a full f16 cache of n_ctx tokens), n_cells,
        n_evicted, n_evictions, t_evict_us and its parts t_score_us, t_select_us and t_compact_us.

        n_more: without a policy, so many cells beside those of n_ctx tokens are counted; None: all that there are."""
        full = round(self.engine.bytes_per_token("f16") * self.n_ctx)
        if self._kv is not None:
            now = self._kv.stats()
            names = ("bytes_kv", "bytes_obs", "bytes_total", "n_cells", "n_evicted", "n_evictions", *TIMES)
            return {**{name: getattr(now, name) for name in names}, "bytes_full": full}
        n_cells = self._n_cells if n_more is None else min(self._n_cells, self.n_ctx + n_more)
        held = round(self.engine.bytes_per_token(self.setup.type) * n_cells)
        taken = dict(n_cells=n_cells, n_evicted=self._n_shifted, n_evictions=self._n_shifts, **dict.fromkeys(TIMES, 0))
        return dict(bytes_kv=held, bytes_obs=0, bytes_total=held, bytes_full=full, **taken)
