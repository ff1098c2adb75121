"""Drafts of a draft model, cut to the length that one batch can verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class ShortDrafts:
    """Calls a draft model and cuts its drafts to n_max() tokens.

    A draft is read together with the token before it, and only one batch has logits of all its tokens at once.
    """

    def __init__(self, model: Any, n_max: Callable[[], int]) -> None:
        self.model, self._n_max = model, n_max

    def __call__(self, input_ids: npt.NDArray[np.intc], /, **options: Any) -> npt.NDArray[Any]:
        return np.asarray(self.model(input_ids, **options))[: self._n_max()]

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # copy and pickle ask before it is set
            raise AttributeError(name)
        return getattr(self.model, name)
