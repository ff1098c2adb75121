"""What the parts of Llama share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..kv import KvBudget


class Parts(KvBudget):
    """The base of the classes that Llama is put together from: what Llama() sets and they use."""

    n_rereads: int  #: how often generate() read a whole prompt again, since it differs from what was read where tokens have been evicted
    _all_scores: bool  # upstream keeps all logits: logits_all without a budget
    _kept_logits: dict[int, npt.NDArray[np.single]]  # index of a token -> logits [n_vocab]
    _tally: Any  # a completions.Tally that the next generate() fills, or None
    draft_model: Any

    def _need_logits(self) -> None:
        raise NotImplementedError  # Reading has it
