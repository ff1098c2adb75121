"""Rows of logits of the last tokens, in place of upstream's array of n_ctx x n_vocab."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as native

N_KEPT = 64  # rows of logits that are kept with logits_all=True


def row_of(llm: Any, i: int) -> npt.NDArray[np.single]:
    """A view of one row of the last decode: float32 [n_vocab]. i is its index in the batch, -1 is the last.

    Raises:
        IndexError: the last decode left no such row.
    """
    pointer = native.llama_get_logits_ith(llm.ctx, i)
    if not pointer:
        raise IndexError(f"the last decode left no logits for row {i}")
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(llm.n_vocab(),))


class LogitRows:
    """Stands for upstream's array of scores, float32 [n_tokens, n_vocab], and has the rows that upstream reads: the newest one,
    and with logits_all those of the last N_KEPT tokens.

    Index 0 gives the newest row too, since that is how upstream asks for it when it calls a stopping criterion.
    """

    def __init__(self, llm: Any, kept: dict[int, npt.NDArray[np.single]]):
        self._llm, self._kept = llm, kept

    def __getitem__(self, key: Any) -> npt.NDArray[np.single]:
        """The row of token i, as `rows[i]` or `rows[i, :]`. Raises IndexError when it is no longer kept."""
        index = key[0] if isinstance(key, tuple) else key
        n_tokens = self._llm.n_tokens
        at = index + n_tokens if index <= 0 else index
        if at in (n_tokens, n_tokens - 1):
            return row_of(self._llm, -1).copy()
        if at in self._kept:
            return self._kept[at]
        raise IndexError(
            f"the logits of token {at} are not kept: only those of the last {N_KEPT} tokens are, with logits_all=True"
        )

    @property
    def shape(self) -> tuple[int, int]:
        return (self._llm.n_tokens, self._llm.n_vocab())


def keep(llm: Any, kept: dict[int, npt.NDArray[np.single]], n_batch: int) -> None:
    """Copy the rows of a batch that was just decoded into `kept` {token index: float32 [n_vocab]}, and drop the oldest."""
    first = max(0, n_batch - N_KEPT) if llm.draft_model is not None else n_batch - 1
    for i in range(first, n_batch):
        kept[llm.n_tokens - n_batch + i] = row_of(llm, i).copy()
    for index in sorted(kept)[:-N_KEPT]:
        del kept[index]
