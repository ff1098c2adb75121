"""What a cache with a KV budget holds and costs, and evicting from it on demand: capkv.h in Python values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._lib import last_error, load
from .config import CapkvConfig
from .turns import Shared, uses_native

if TYPE_CHECKING:
    from ._upstream import UpstreamLlama as _Upstream
else:
    _Upstream = object


@dataclass(frozen=True)
class KvStats:
    """Figures of one sequence. Tokens and cells are counts, sizes are bytes."""

    n_tokens: int  #: length of the sequence in tokens
    n_cells: int  #: cells allocated
    n_used: int  #: cells in use
    n_evicted: int  #: tokens of the sequence that each KV head has dropped
    n_evictions: int  #: how often the cache was compacted
    t_evict_us: int  #: time spent on evictions, in microseconds
    t_score_us: int  #: of that, to score the entries; saved states do not have the parts
    t_select_us: int  #: of that, to choose those that stay
    t_compact_us: int  #: of that, to move them
    pos_tail: int  #: every head holds every token from this position on; 0 = nothing was evicted
    pos_offset: int  #: position minus RoPE position, of the tokens in the tail and of those to come
    n_reindexes: int  #: how often the entries got new RoPE positions
    n_pos_max: int  #: RoPE positions end here: the trained length, or what the RoPE scaling makes of it
    bytes_kv: int  #: K and V of the cells
    bytes_obs: int  #: what the policy has observed of the queries
    bytes_pos: int  #: position table
    bytes_work: int  #: work memory of an eviction
    bytes_full: int  #: K and V of a full cache for the context; without an end, for the trained length or the tokens so far
    capacity: float  #: share of the capacity that the last eviction retained, over all layers; 1 = nothing was evicted
    capacity_layers: tuple[float, ...] = ()  #: the same for each layer that the budget governs
    config: CapkvConfig = None  # type: ignore[assignment]  #: the options in force, all resolved; KvCache.stats() sets them

    @property
    def bytes_total(self) -> int:
        """All memory of the cache with its budget, in bytes."""
        return self.bytes_kv + self.bytes_obs + self.bytes_pos + self.bytes_work

    @property
    def compression(self) -> float:
        """How many times smaller than a full cache it is."""
        return self.bytes_full / self.bytes_total if self.bytes_total else 1.0


class KvCache:
    """The cache of one context.

    Args:
        address: of the context, as llama_cpp holds it. It must stay open for as long as this object is used.
        config: the options in force where they are known already; None asks the context for them.
    """

    def __init__(self, address: Any, config: CapkvConfig | None = None):
        self.ctx = load()[0].cast("struct llama_context *", address)
        #: the options in force, all resolved; None without a budget
        self.config = config or self._config()

    def _config(self) -> CapkvConfig | None:
        ffi, lib = load()
        params = ffi.new("struct capkv_params *")
        return CapkvConfig.from_params(params) if lib.capkv_get_params(self.ctx, params) else None

    @property
    def is_endless(self) -> bool:
        """Whether the context has no end: it has a budget, and no length was asked for."""
        return bool(load()[1].capkv_is_endless(self.ctx))

    @property
    def can_pass_trained(self) -> bool:
        """Whether a text may be longer than the model was trained for, as far as the context goes; False without a budget."""
        return bool(load()[1].capkv_can_pass_trained(self.ctx))

    def stats(self, seq_id: int = 0) -> KvStats:
        """Figures of one sequence, or with -1 their sums over all sequences (capacity_layers is empty then).

        Raises:
            RuntimeError: the context has no budget or no such sequence.
        """
        ffi, lib = load()
        raw = ffi.new("struct capkv_stats *")
        if not lib.capkv_get_stats(self.ctx, seq_id, raw):
            raise RuntimeError(last_error())
        n_layers = max(lib.capkv_get_capacity(self.ctx, seq_id, ffi.NULL, 0), 0)
        shares = ffi.new("float[]", max(n_layers, 1))
        lib.capkv_get_capacity(self.ctx, seq_id, shares, n_layers)
        values = {f.name: getattr(raw, f.name) for f in fields(KvStats) if hasattr(raw, f.name)}
        assert self.config is not None  # without a budget there are no figures
        return KvStats(**values, capacity_layers=tuple(shares[0:n_layers]), config=self.config)

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that the budget governs, ascending."""
        ffi, lib = load()
        n = lib.capkv_get_layers(self.ctx, ffi.NULL, 0)
        out = ffi.new("int32_t[]", max(n, 1))
        return list(out[0 : lib.capkv_get_layers(self.ctx, out, n)])

    def n_heads(self, layer: int) -> int:
        """Number of KV heads of a layer."""
        return int(load()[1].capkv_n_head_kv(self.ctx, layer))

    @property
    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every KV head that the budget governs, ascending."""
        return [(layer, head) for layer in self.layers for head in range(self.n_heads(layer))]

    def positions(self, layer: int, head: int, seq_id: int = 0, rope: bool = False) -> npt.NDArray[Any]:
        """Positions of the tokens that one KV head holds, or those that their keys are rotated to: int32 [n], ascending.

        Raises:
            ValueError: no such layer or head.
        """
        ffi, lib = load()
        get = lib.capkv_get_rope_positions if rope else lib.capkv_get_positions
        n = get(self.ctx, seq_id, layer, head, ffi.NULL, 0)
        if n < 0:
            raise ValueError(last_error())
        out = np.empty(n, dtype=np.int32)
        get(self.ctx, seq_id, layer, head, ffi.cast("int32_t *", out.ctypes.data), n)
        return out

    def kept(self, seq_id: int = 0) -> npt.NDArray[Any]:
        """For each position of a sequence the share of the governed KV heads that still hold it: float32 [last position + 1], 0 to 1.

        From `pos_tail` of stats() on, and at pinned positions, it is 1.
        """
        held = [self.positions(layer, head, seq_id) for layer, head in self.heads]
        counts = np.zeros(max((int(one[-1]) + 1 for one in held if len(one)), default=0), dtype=np.float32)
        for one in held:
            counts[one] += 1  # once for each head, also where an image has many entries at one position
        return counts / np.float32(max(len(held), 1))

    def scores(self, seq_id: int = 0) -> npt.NDArray[Any]:
        """The score that the policy gives to each entry now: float32 [n_heads, n], in the order of `heads` and of positions().

        The higher, the sooner an entry stays; sinks, recent window and pinned entries have one, too, though they stay whatever it is.
        Nothing changes: the next eviction computes its scores anew.

        Raises:
            RuntimeError: no budget, no such sequence, or the computation failed.
        """
        ffi, lib = load()
        n = lib.capkv_get_scores(self.ctx, seq_id, ffi.NULL, 0)
        out = np.empty(max(n, 0), dtype=np.float32)
        if n < 0 or lib.capkv_get_scores(self.ctx, seq_id, ffi.cast("float *", out.ctypes.data), n) < 0:
            raise RuntimeError(last_error())
        return out.reshape(len(self.heads), -1)

    def compress(self, n_budget: int = 0, seq_id: int = 0) -> int:
        """Evict now, down to n_budget tokens (0: the context's own budget); returns how many tokens each KV head dropped.

        Raises:
            ValueError: a budget that is not allowed, or leaves too little beside what is pinned.
        """
        n = load()[1].capkv_compress(self.ctx, seq_id, n_budget)
        if n < 0:
            raise ValueError(last_error())
        return int(n)

    def pin(self, start: int, stop: int, seq_id: int = 0) -> None:
        """Let no KV head drop the tokens at positions [start, stop), which may lie ahead of the text.

        Raises:
            ValueError: some heads have dropped a token of the range, or too little of the budget would be left to choose from;
                the message has the figures, and nothing has changed.
        """
        if not load()[1].capkv_pin(self.ctx, seq_id, _position("start", start), _position("stop", stop)):
            raise ValueError(last_error())

    def unpin(self, start: int | None = None, stop: int | None = None, seq_id: int = 0) -> None:
        """Pin no position of [start, stop) any more; None is an open end. Raises ValueError if an end is no position."""
        p0 = -1 if start is None else _position("start", start)
        p1 = -1 if stop is None else _position("stop", stop)
        if not load()[1].capkv_unpin(self.ctx, seq_id, p0, p1):
            raise ValueError(last_error())

    def pins(self, seq_id: int = 0) -> list[tuple[int, int]]:
        """(start, stop) of each range of pinned positions, ascending. Raises ValueError if there is no such sequence."""
        ffi, lib = load()
        n = lib.capkv_get_pins(self.ctx, seq_id, ffi.NULL, 0)
        if n < 0:
            raise ValueError(last_error())
        out = ffi.new("int32_t[]", max(n, 1))
        ends = list(out[0 : lib.capkv_get_pins(self.ctx, seq_id, out, n)])
        return list(zip(ends[::2], ends[1::2]))

    def focus(self, tokens: Sequence[int], seq_id: int = 0) -> int:
        """Read a question whose queries take part in the evictions of the text to come, and remove it again.

        Returns how many of its queries are held: those of its newest tokens, at most a third of the policy's sample.

        Raises:
            ValueError: the policy keeps no sample, there is no such token or sequence, or the tokens do not fit beside the text without
                an eviction; the message has the figures, and nothing has changed. Or they could not be decoded: then no question is held.
        """
        ffi, lib = load()
        ids = ffi.new("int32_t[]", list(map(int, tokens)))
        n = lib.capkv_focus(self.ctx, seq_id, ids, len(ids))
        if n < 0:
            raise ValueError(last_error())
        return int(n)

    def unfocus(self, seq_id: int = 0) -> None:
        """Hold no question any more. Raises ValueError if there is no such sequence."""
        if not load()[1].capkv_unfocus(self.ctx, seq_id):
            raise ValueError(last_error())

    @property
    def n_focus_max(self) -> int:
        """How many queries of a question can be held; 0 without a budget or where the policy keeps no sample of queries."""
        return int(load()[1].capkv_n_focus_max(self.ctx))

    def n_focus(self, seq_id: int = 0) -> int:
        """How many queries of a question are held. Raises ValueError if there is no such sequence."""
        n = load()[1].capkv_n_focus(self.ctx, seq_id)
        if n < 0:
            raise ValueError(last_error())
        return int(n)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _position(name: str, value: Any) -> int:
    if not _is_count(value) or not 0 <= value < 2**31:
        raise ValueError(f"{name} = {value}: allowed is a position, 0 or above and below 2^31")
    return int(value)


class KvBudget(Shared, _Upstream):
    """Llama's methods about its cache, which any thread may call while another one generates. Mixed into Llama; needs its `ctx`,
    `n_tokens`, `kv_config` (None without a budget), `_drop_unread()`, and what turns.Shared has."""

    kv_config: CapkvConfig | None  #: the options in force, all resolved; None without a budget

    def _drop_unread(self) -> None:
        raise NotImplementedError  # Reading has it

    @property
    def _kv(self) -> KvCache:
        if self.kv_config is None:
            raise RuntimeError("this context has no KV budget: give kv_budget to Llama()")
        return KvCache(self.ctx, self.kv_config)

    @property
    @uses_native
    def is_endless(self) -> bool:
        """Whether the context has no end, as with kv_budget and without n_ctx. n_ctx() is then a number that no text reaches."""
        return self.kv_config is not None and self._kv.is_endless

    @property
    @uses_native
    def can_pass_trained(self) -> bool:
        """Whether a text may be longer than the model was trained for, as far as n_ctx goes; False without a budget."""
        return self.kv_config is not None and self._kv.can_pass_trained

    @uses_native
    def kv_stats(self) -> KvStats:
        """Tokens read, cells in use, evictions and bytes, now. Raises RuntimeError without a budget."""
        return self._kv.stats()

    @property
    @uses_native
    def kv_layers(self) -> list[int]:
        """Indices of the layers that the budget governs. Raises RuntimeError without a budget."""
        return self._kv.layers

    @uses_native
    def kv_heads(self, layer: int) -> int:
        """Number of KV heads of a layer. Raises RuntimeError without a budget."""
        return self._kv.n_heads(layer)

    @uses_native
    def kv_positions(self, layer: int, head: int) -> npt.NDArray[Any]:
        """Positions of the tokens that one KV head holds: int32 [n], ascending.

        Raises:
            RuntimeError: without a budget.
            ValueError: no such layer or head.
        """
        return self._kv.positions(layer, head)

    @uses_native
    def kv_kept(self) -> npt.NDArray[Any]:
        """For each token of the text the share of KV heads, of all layers that the budget governs, that still hold it.

        float32 [n_tokens], 0 (gone) to 1 (all hold it). Raises RuntimeError without a budget.
        """
        return self._kv.kept()[: self.n_tokens]

    @uses_native
    def compress(self, budget: int | None = None) -> int:
        """Evict now, down to `budget` tokens per KV head (None: the context's own); returns how many tokens each head dropped.

        Raises:
            RuntimeError: without a budget.
            ValueError: a budget that is not allowed, or leaves too little beside what is pinned.
        """
        kv = self._kv
        if budget is not None and not (_is_count(budget) and 0 < budget < 2**32):
            raise ValueError(f"budget = {budget}: allowed is a number of tokens above 0 and below 2^32")
        self._drop_unread()
        return kv.compress(int(budget or 0))

    @uses_native
    def pin(self, start: int, stop: int) -> None:
        """Let no KV head drop the tokens at positions [start, stop), whatever the policy says.

        They may lie ahead of the text, and are pinned once they are read. Beyond the first `sink` tokens they count against the
        budget. Saved states and sessions hold the pins; reset() ends them, and going back ends those of the tokens that go.

        Raises:
            RuntimeError: without a budget.
            ValueError: some heads have dropped a token of the range, or pins, sinks and recent window would leave less than a
                quarter of the budget to choose from; the message has the figures, and nothing has changed.
        """
        kv = self._kv
        self._drop_unread()
        kv.pin(start, stop)

    @uses_native
    def unpin(self, start: int | None = None, stop: int | None = None) -> None:
        """Pin no position of [start, stop) any more; None is an open end.

        Raises:
            RuntimeError: without a budget.
            ValueError: an end that is no position.
        """
        self._kv.unpin(start, stop)

    @property
    @uses_native
    def pins(self) -> list[tuple[int, int]]:
        """(start, stop) of each range of pinned positions, ascending. Raises RuntimeError without a budget."""
        return self._kv.pins()


def remarks(llm: Any) -> list[str]:
    """What may surprise the user of a Llama that was just opened, one line each."""
    if llm.kv_config is None:
        return ["flash attention is on, since V is quantized"] if llm.flash_attn_by_itself else []
    now, n_ctx = llm.kv_stats(), llm.n_ctx()
    if now.n_cells < n_ctx:
        return []
    return [
        f"the budget of {now.config.budget:,} tokens and its headroom are no less than the context of {n_ctx:,}: nothing is "
        f"ever evicted, and without a budget the cache takes {now.bytes_full / now.bytes_total:.0%} of the memory"
    ]
