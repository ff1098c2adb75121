"""Drafts of a draft model, cut to what one batch can verify."""

import numpy as np


class ShortDrafts:
    """Calls a draft model and cuts its drafts to n_max() tokens.

    A draft is read together with the token before it, and the logits of all of them are needed at once: those of one batch.
    """

    def __init__(self, model, n_max):
        self.model, self._n_max = model, n_max

    def __call__(self, input_ids, /, **options):
        return np.asarray(self.model(input_ids, **options))[: self._n_max()]

    def __getattr__(self, name):
        if name == "model":  # not there yet: being copied
            raise AttributeError(name)
        return getattr(self.model, name)
