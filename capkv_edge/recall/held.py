"""What the heads of a cache hold of a range of positions."""

import numpy as np


#: a head that has dropped more of a text than the rest to 1 does not hold it: who has lost one word in two cannot answer from it
SHARE = 0.9


class Held:
    """The positions that each KV head holds at the time when this is made.

    Args:
        kv: a kv.KvCache, or None for a cache that evicts nothing.
    """

    def __init__(self, kv, seq_id: int = 0):
        self._heads = [] if kv is None else [kv.positions(layer, head, seq_id) for layer, head in kv.heads]

    def is_gone(self, begin: int, end: int) -> bool:
        """Whether most heads hold less than SHARE of the positions from `begin` to `end`; of an empty range it is False."""
        n_less = sum(np.diff(np.searchsorted(head, (begin, end)))[0] < SHARE * (end - begin) for head in self._heads)
        return bool(2 * n_less > len(self._heads))
