"""Reading and generating: token ids go to llama.cpp in batches, and a new prompt reuses what was read before.

Upstream assumes in several places that a token's index, its position and its cell are one number, and allocates arrays of n_ctx.
Here the index is the position, the native library alone knows the cells, and nothing but the token ids grows with the text.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator, Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as native

from .. import _lib, _log
from ..turns import changes_text
from . import logits
from .parts import Parts

_GENERATE = inspect.signature(llama_cpp.Llama.generate)


class Reading(Parts):
    """Mixed into Llama; needs its `_all_scores`, `_kept_logits`, `_tally` and `kv_config`, KvBudget's kv_stats(), and turns.Shared."""

    #: ranges that the next eval() pins
    _pins_to_keep: Sequence[tuple[int, int]] = ()

    def _drop_unread(self) -> None:
        # the native sequence is longer than n_tokens after a reply that was cut short, and when n_tokens was set back
        if native.llama_memory_seq_pos_max(native.llama_get_memory(self.ctx), 0) < self.n_tokens:
            return  # a removal from 0 on would also end the pins of a text that was not begun
        if not self._remove_from(self.n_tokens) and self.kv_config is not None:
            raise RuntimeError(
                f"cannot go back to token {self.n_tokens}: from {self.kv_stats().pos_tail} on all are held; reset() first"
            )

    def _raise_if_emptied(self) -> None:
        # an eviction that failed halfway leaves an empty sequence: tokens read at n_tokens would attend to nothing before them
        if self.n_tokens > 0 and native.llama_memory_seq_pos_max(native.llama_get_memory(self.ctx), 0) < 0:
            n_lost, self.n_tokens = self.n_tokens, 0
            self.reset()
            raise RuntimeError(f"{_lib.last_error()}: all {n_lost} tokens were dropped")

    @changes_text
    def reset(self) -> None:
        """Forget all that was read, and what was pinned. The cache is emptied at once."""
        self._n_changes += 1
        super().reset()  # type: ignore[no-untyped-call]
        self._kept_logits.clear()
        if native.llama_get_memory(self.ctx):
            self._remove_from(0)

    @changes_text
    def rewind(self, n_tokens: int) -> None:
        """Go back to the first n_tokens tokens; read a token before the next one is sampled.

        Raises:
            ValueError: n_tokens is no number of tokens that were read.
            RuntimeError: tokens behind them have been evicted, or this model's memory cannot go back; nothing has changed.
        """
        if not 0 <= n_tokens <= self.n_tokens:
            raise ValueError(f"n_tokens = {n_tokens}: allowed is 0 to {self.n_tokens}")
        if n_tokens == self.n_tokens:
            return
        if n_tokens == 0:
            return self.reset()
        self._n_changes += 1
        n_before, self.n_tokens = self.n_tokens, n_tokens
        try:
            self._drop_unread()
            if native.llama_memory_seq_pos_max(native.llama_get_memory(self.ctx), 0) >= n_tokens:
                raise RuntimeError(f"cannot go back to token {n_tokens}: this model's memory cannot drop tokens at its end")
        except RuntimeError:
            self.n_tokens = n_before
            raise
        self._has_logits = False

    @changes_text
    def eval(self, tokens: Sequence[int]) -> None:
        """Read tokens. With a budget any number of them can be read, whatever n_ctx is.

        Raises:
            RuntimeError: a batch could not be decoded, or n_tokens was set back to where tokens have been evicted. The batches
                before the one that failed stay read; but if an eviction failed halfway, all tokens are dropped, and the message
                says so.
        """
        self._n_changes += 1
        self._pause()
        if self._all_scores:
            super().eval(tokens)
            return _log.raise_interrupt()
        self._drop_unread()
        pins, self._pins_to_keep = self._pins_to_keep, ()
        for start, stop in pins:
            self.pin(start, stop)
        self._make_room(len(tokens) + 1)  # generate() puts one more there before it asks for a draft
        for i in range(0, len(tokens), self.n_batch):
            if i:
                self._pause()
            batch = tokens[i : i + self.n_batch]
            n = len(batch)
            try:
                self._decode(batch, all_logits=self.draft_model is not None)
            except RuntimeError:
                self._raise_if_emptied()
                raise
            self.input_ids[self.n_tokens : self.n_tokens + n] = batch
            self.n_tokens += n
            self._has_logits = True
            if self._gives_logprobs:
                logits.keep(self, self._kept_logits, n)
            _log.raise_interrupt()

    def _make_room(self, n: int) -> None:
        n += self.n_tokens
        if len(self.input_ids) < n:
            grown = np.empty(n + n // 4, dtype=np.intc)  # memory that is never written to takes no room
            grown[: self.n_tokens] = self.input_ids[: self.n_tokens]
            self.input_ids = grown

    @changes_text
    def sample(self, *args: Any, **kwargs: Any) -> int:
        """As upstream's. Raises RuntimeError while there are no logits: nothing was read since reset() or load_state()."""
        self._need_logits()
        return int(super().sample(*args, **kwargs))

    def _need_logits(self) -> None:
        if not self._has_logits:
            raise RuntimeError("there are no logits: eval() a token first")

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        """As upstream's. A prompt that differs from what was read where tokens have been evicted is read anew; n_rereads counts it.
        What was pinned of the tokens that both share stays pinned.

        Raises:
            RuntimeError: while a token is asked for, if another call has changed the text since the last one.
        """
        return self._steps(self._generated(list(tokens), *args, **kwargs))

    def _generated(self, tokens: list[int], *args: Any, **kwargs: Any) -> Generator[int, Any, None]:
        self._n_changes += 1
        if self.kv_config is not None and _GENERATE.bind(self, tokens, *args, **kwargs).arguments.get("reset", True):
            self._reset_if_evicted(tokens)
        generated = super().generate(tokens, *args, **kwargs)
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.n_prompt = len(tokens)
        sent: Any = None
        while True:
            try:
                token = generated.send(sent)
            except StopIteration:
                return
            if tally is not None:
                tally.add(token)
            n_changes = self._n_changes
            sent = yield token
            if self._n_changes != n_changes:
                raise RuntimeError(
                    "this stream has ended, since another call has changed the text that was read: "
                    "`with llm.lock:` around a stream keeps other threads out until it is done"
                )

    def _reset_if_evicted(self, tokens: list[int]) -> None:
        n = min(self.n_tokens, len(tokens))
        differ = np.flatnonzero(self.input_ids[:n] != np.asarray(tokens[:n], dtype=np.intc))
        n_same = int(differ[0]) if len(differ) else n
        if self.n_tokens and n_same == self.n_tokens and (n_same < len(tokens) or self._has_logits):
            return
        # upstream empties the cache next, or goes back in it
        self._pins_to_keep = [(start, min(stop, n_same)) for start, stop in self.pins if start < n_same] if self.n_tokens else self.pins
        pos_tail = self.kv_stats().pos_tail
        n_reused = min(n_same, len(tokens) - 1)
        if 0 < n_reused < pos_tail:
            self.n_rereads += 1
            if self.verbose:
                print(
                    f"Llama.generate: the prompt shares {n_same} tokens, all are held only from {pos_tail} on: "
                    f"reading all {len(tokens)} again",
                    file=sys.stderr,
                )
            self.reset()
