"""What a context with a KV budget holds and costs: the getters of capkv.h as Python values."""

from dataclasses import dataclass, fields

import numpy as np

from ._lib import last_error, load
from .config import CapkvConfig


@dataclass(frozen=True)
class KvStats:
    """Figures of one sequence. Tokens and cells are counts, sizes are bytes."""

    n_tokens: int  #: tokens that the sequence is long
    n_cells: int  #: cells allocated
    n_used: int  #: cells in use
    n_evicted: int  #: tokens of it that each KV head no longer holds
    n_evictions: int  #: times that the cache was compacted
    t_evict_us: int  #: time spent in that, in microseconds
    pos_tail: int  #: from this position on every head holds every token; 0 = nothing was evicted
    bytes_kv: int  #: K and V of the cells
    bytes_obs: int  #: what the policy has observed of the queries
    bytes_pos: int  #: position table
    bytes_work: int  #: work memory of an eviction
    bytes_full: int  #: K and V that the cache would have taken without a budget
    capacity: float  #: share of the capacity that the last eviction retained, over all layers; 1 = nothing was evicted
    capacity_layers: tuple = ()  #: the same for each layer that the budget governs
    config: CapkvConfig = None  #: the options in force, all resolved

    @property
    def bytes_total(self) -> int:
        """All that the budgeted cache holds, in bytes."""
        return self.bytes_kv + self.bytes_obs + self.bytes_pos + self.bytes_work

    @property
    def compression(self) -> float:
        """How many times smaller than a full cache it is."""
        return self.bytes_full / self.bytes_total if self.bytes_total else 1.0


def pointer(address: int):
    """The `struct llama_context *` at the address that llama_cpp holds."""
    return load()[0].cast("struct llama_context *", address)


def config_of(ctx):
    """The resolved CapkvConfig of a context, or None if it has no budget."""
    ffi, lib = load()
    params = ffi.new("struct capkv_params *")
    return CapkvConfig.from_params(params) if lib.capkv_get_params(ctx, params) else None


def stats_of(ctx, config: CapkvConfig, seq_id: int = 0) -> KvStats:
    """KvStats of one sequence, or with -1 summed over all of them (capacity_layers is empty then).

    Raises:
        RuntimeError: the context has no such sequence.
    """
    ffi, lib = load()
    raw = ffi.new("struct capkv_stats *")
    if not lib.capkv_get_stats(ctx, seq_id, raw):
        raise RuntimeError(last_error())
    n_layers = max(lib.capkv_get_capacity(ctx, seq_id, ffi.NULL, 0), 0)
    shares = ffi.new("float[]", max(n_layers, 1))
    lib.capkv_get_capacity(ctx, seq_id, shares, n_layers)
    values = {f.name: getattr(raw, f.name) for f in fields(KvStats) if hasattr(raw, f.name)}
    return KvStats(**values, capacity_layers=tuple(shares[0:n_layers]), config=config)


def layers_of(ctx) -> list:
    """Indices of the layers that the budget governs, ascending."""
    ffi, lib = load()
    n = lib.capkv_get_layers(ctx, ffi.NULL, 0)
    out = ffi.new("int32_t[]", max(n, 1))
    return list(out[0 : lib.capkv_get_layers(ctx, out, n)])


def positions_of(ctx, layer: int, head: int, seq_id: int = 0) -> np.ndarray:
    """Positions of the tokens that one KV head holds: int32 [n], ascending.

    Raises:
        ValueError: no such layer or head.
    """
    ffi, lib = load()
    n = lib.capkv_get_positions(ctx, seq_id, layer, head, ffi.NULL, 0)
    if n < 0:
        raise ValueError(last_error())
    out = np.empty(n, dtype=np.int32)
    lib.capkv_get_positions(ctx, seq_id, layer, head, ffi.cast("int32_t *", out.ctypes.data), n)
    return out


def compress(ctx, n_budget: int, seq_id: int = 0) -> int:
    """Evict now, down to n_budget tokens (0: the context's own budget); returns how many tokens each KV head dropped.

    Raises:
        ValueError: a budget that is not allowed.
    """
    n = load()[1].capkv_compress(ctx, seq_id, n_budget)
    if n < 0:
        raise ValueError(last_error())
    return n


def remarks(llm) -> list:
    """What may surprise whoever opened a Llama, one line each."""
    found = []
    config, n_ctx = llm.kv_config, llm.n_ctx()
    if config is not None:
        now = stats_of(pointer(llm.ctx), config)
        if now.n_cells >= n_ctx:
            found.append(
                f"the budget of {config.budget:,} tokens and its headroom are no less than the context of {n_ctx:,}: nothing is "
                f"ever evicted, and without a budget the cache takes {now.bytes_full / now.bytes_total:.0%} of the memory"
            )
    elif llm.flash_attn_by_itself:
        found.append("flash attention is on, since V is quantized")
    return found
