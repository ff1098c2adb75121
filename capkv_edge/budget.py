"""What a Llama with a KV budget can be asked and told about its cache."""

import numpy as np

from . import _lib, stats


class KvBudget:
    """Mixed into Llama; needs its `_ctx`, `kv_config` (None without a budget) and `_drop_unread`."""

    @property
    def _kv_ctx(self):
        return stats.pointer(self._ctx.ctx)

    def _need_budget(self) -> None:
        if self.kv_config is None:
            raise RuntimeError("this context has no KV budget: give kv_budget to Llama()")

    def kv_stats(self) -> stats.KvStats:
        """Tokens seen, cells used, evictions and bytes, now. Raises RuntimeError without a budget."""
        self._need_budget()
        return stats.stats_of(self._kv_ctx, self.kv_config)

    @property
    def kv_layers(self) -> list:
        """Indices of the layers that the budget governs. Raises RuntimeError without a budget."""
        self._need_budget()
        return stats.layers_of(self._kv_ctx)

    def kv_heads(self, layer: int) -> int:
        """Number of KV heads of a layer. Raises RuntimeError without a budget."""
        self._need_budget()
        return _lib.load()[1].capkv_n_head_kv(self._kv_ctx, layer)

    def kv_positions(self, layer: int, head: int) -> np.ndarray:
        """Positions of the tokens that one KV head holds: int32 [n], ascending.

        Raises:
            RuntimeError: without a budget.
            ValueError: no such layer or head.
        """
        self._need_budget()
        return stats.positions_of(self._kv_ctx, layer, head)

    def compress(self, budget=None) -> int:
        """Evict now, down to `budget` tokens per KV head (None: the context's own); returns how many tokens each dropped.

        Raises:
            RuntimeError: without a budget.
            ValueError: a budget that is not allowed.
        """
        self._need_budget()
        is_count = isinstance(budget, (int, np.integer)) and not isinstance(budget, bool)
        if budget is not None and not (is_count and 0 < budget < 2**32):
            raise ValueError(f"budget = {budget}: allowed is a number of tokens above 0 and below 2^32")
        self._drop_unread()
        return stats.compress(self._kv_ctx, int(budget or 0))
