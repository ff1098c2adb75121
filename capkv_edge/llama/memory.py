"""What memory a Llama will take, measured without taking it, and the largest budget that fits.

llama.cpp opens the model with no_alloc: it reads the header, lays out weights, cache and graphs on the devices, and allocates none of
them. So every architecture, cache type and division over devices is counted as it will be.
"""

from dataclasses import dataclass

import llama_cpp

from .. import host_memory
from .._lib import last_error, load
from ..config import CapkvConfig
from ..units import size
from .llama import Llama

#: what is left free by itself: a share of the free memory of a device, and no less than so many bytes
MARGIN_SHARE, MARGIN_LEAST = 0.1, 256 << 20

_N_PAD = 256  # cells come in multiples of it
_STEP = 64  # a budget that is found is a multiple of it, unless it is the length of the context
_N_NEAR = 64  # the search ends when no more than one part in so many could be gained
_N_TRIES = 8  # measurements at most, beside that of the smallest budget


class DoesNotFitError(ValueError):
    """A device has too little memory. The message has the figures."""


@dataclass(frozen=True)
class DeviceMemory:
    """What is taken of one device, in bytes."""

    name: str  #: "CPU", "CUDA0"
    is_host: bool  #: the memory of this machine's processor
    free: int  #: 0 = unknown
    weights: int
    mapped: int  #: weights that are mapped from the file: where memory is short they are read again instead
    cache: int  #: K and V, what is observed of the queries, states of recurrent layers
    work: int  #: to compute batches and evictions

    @property
    def taken(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.work

    @property
    def fits(self) -> bool:
        """Whether that is free; what is mapped need not be."""
        return not self.free or self.taken - self.mapped <= self.free

    @property
    def margin(self) -> int:
        """What a budget that is chosen here leaves free."""
        return max(int(MARGIN_SHARE * self.free), MARGIN_LEAST)

    @property
    def left(self) -> int | None:
        """What is free beside all that is taken and the margin; below 0 it does not fit. None where it is unknown."""
        return self.free - self.margin - self.taken if self.free else None

    def parts(self) -> str:
        """All of it as text: "weights 93.6 MiB + cache 13.5 MiB + work 98.8 MiB = 205.9 MiB"."""
        parts = {"weights": self.weights, "cache": self.cache, "work": self.work}
        return " + ".join(f"{name} {size(n)}" for name, n in parts.items() if n) + f" = {size(self.taken)}"


@dataclass(frozen=True)
class Memory:
    """What a Llama will take: its devices, the one with the largest part of the cache first."""

    devices: tuple
    config: CapkvConfig | None  #: the options of the budget, all resolved; None without one
    n_cells: int  #: of one sequence; without a budget the length of the context
    n_ctx_train: int  #: trained length in tokens
    is_endless: bool
    n_sequences: int = 1

    def line(self) -> str:
        """For the user, before the model is loaded."""
        told = [f"{d.parts()} of {size(d.free) + ' free' if d.free else 'an unknown amount'} on {d.name}" for d in self.devices if d.taken]
        return "memory: " + "; ".join(told)

    def remarks(self) -> list:
        """What may be slow, one line each."""
        return [
            f"the weights do not fit into the free memory of {d.name} beside the rest: they will be read from the file again and again"
            for d in self.devices
            if d.fits and d.free and d.taken > d.free
        ]

    def check(self) -> None:
        """Raises DoesNotFitError if a device has too little memory."""
        for d in self.devices:
            if not d.fits:
                mapped = f", of which {size(d.mapped)} may stay in the file" if d.mapped else ""
                raise DoesNotFitError(f"this does not fit on {d.name}: {d.parts()}{mapped}, and {size(d.free)} are free; {_advice(d)}")


@dataclass(frozen=True)
class Fit:
    """The largest budget that fits, or that is of use."""

    budget: int
    memory: Memory  #: with that budget
    limit: str  #: why it is no larger

    def lines(self) -> list:
        """The arithmetic, for the user."""
        lines = [
            f"budget auto: {size(d.free)} free on {d.name} - weights {size(d.weights)} - work {size(d.work)} - margin {size(d.margin)} "
            f"= {size(d.left + d.cache)} for the cache"
            for d in self.memory.devices
            if d.cache and d.free
        ]
        cache = sum(d.cache for d in self.memory.devices)
        each = f" for each of {self.memory.n_sequences} sequences" if self.memory.n_sequences > 1 else ""
        cells = f"{self.memory.n_cells:,} cells in {self.memory.config.type}{each}"
        return [*lines, f"budget auto: {self.budget:,} tokens take {size(cache)} ({cells}): {self.limit}"]


def _advice(d: DeviceMemory) -> str:
    smaller = "a smaller budget or n_ctx takes less"
    return smaller if d.is_host else f"a smaller n_gpu_layers (--gpu-layers) puts fewer layers there; {smaller}"


class _Unallocated(Llama):
    """A Llama of which nothing is allocated; it cannot compute."""

    _no_alloc = True
    _n_sequences = 1

    def __init__(self, model_path, n_sequences: int, **keywords):
        self._n_sequences = n_sequences
        super().__init__(model_path, **keywords)

    @property
    def context_params(self):
        params = super().context_params
        params.n_seq_max = self._n_sequences
        return params

    @context_params.setter
    def context_params(self, params) -> None:
        self._context_params = params


def measure(model_path, *, n_sequences: int = 1, **keywords) -> Memory:
    """What Llama(model_path, **keywords) would take. It takes none of it, except for the work memory of an eviction for a moment.

    LoRA adapters and draft models are left out.

    Args:
        n_sequences: how many sequences the context is for, as llama-server's slots; each has an equal part of n_ctx, and with a budget
            a cache of its own.

    Raises:
        as Llama().
    """
    mapped = keywords.get("use_mmap", True) and not keywords.get("use_mlock")
    plain = dict(verbose=False, use_mmap=False, use_mlock=False, lora_path=None, draft_model=None)
    llm = _Unallocated(model_path, n_sequences, **(keywords | plain))
    try:
        config = llm.kv_config
        return Memory(
            devices=_devices(llm, mapped),
            config=config,
            n_cells=llm.kv_stats().n_cells if config else llm.n_ctx(),
            n_ctx_train=llama_cpp.llama_model_n_ctx_train(llm.model),
            is_endless=llm.is_endless,
            n_sequences=n_sequences,
        )
    finally:
        llm.close()


def _devices(llm, mapped: bool) -> tuple:
    ffi, lib = load()
    ctx = ffi.cast("struct llama_context *", llm.ctx)
    n = lib.capkv_get_device_memory(ctx, ffi.NULL, 0)
    rows = ffi.new("struct capkv_device_memory[]", max(n, 1))
    if n < 0 or lib.capkv_get_device_memory(ctx, rows, n) < 0:
        raise RuntimeError(last_error())
    found = [
        DeviceMemory(
            name=ffi.string(row.name).decode("utf-8", "replace"),
            is_host=row.host,
            free=host_memory.available(row.free) if row.host else row.free,
            weights=row.bytes_model,
            mapped=row.bytes_mapped if mapped else 0,
            cache=row.bytes_cache,
            work=row.bytes_work,
        )
        for row in rows[0:n]
    ]
    return tuple(sorted(found, key=lambda d: -d.cache))


def fit_budget(model_path, *, n_sequences: int = 1, **keywords) -> Fit:
    """The largest budget with which Llama(model_path, **keywords) fits into the memory of the devices that hold its cache.

    It leaves DeviceMemory.margin free on each. It is no larger than what is of use: with n_ctx the length of the context, else what
    leaves room for a batch within the trained length, so that the context has no end.

    Args:
        n_sequences: as for measure().
        keywords: of Llama(); kv_budget is not used.

    Raises:
        DoesNotFitError: no budget fits, or the rest does not.
        else as Llama().
    """

    others = {name.removeprefix("kv_"): value for name, value in keywords.items() if name.startswith("kv_") and name != "kv_budget"}
    config = CapkvConfig.from_env(**others, budget=1 << 30)  # any that is large enough for the other options
    n_ctx, n_batch = (keywords.get("n_ctx") or 0) // n_sequences, keywords.get("n_batch", 512)
    least = max(config.sink + config.recent + 1, _N_PAD)

    def at(n: int) -> Memory:
        """With the largest budget for n times _N_PAD cells."""
        n_cells = n * _N_PAD
        # the headroom is a batch, or a quarter of the budget if that is more
        budget = min(n_cells - n_batch, n_cells * 4 // 5) if config.headroom == "auto" else n_cells - config.headroom
        budget = n_ctx if n_ctx and n_cells >= n_ctx else max(budget // _STEP * _STEP, least)  # nothing is ever evicted from n_ctx cells
        return measure(model_path, n_sequences=n_sequences, **(keywords | {"kv_budget": budget}))

    n_least = _n_padded(least + (n_batch if config.headroom == "auto" else config.headroom))
    small = at(min(n_least, _n_padded(n_ctx)) if n_ctx else n_least)
    small.check()
    if _room(small) < 0:
        d = min((d for d in small.devices if d.cache and d.free), key=lambda d: d.left)
        raise DoesNotFitError(
            f"kv_budget = auto: a budget of {small.config.budget} does not fit on {d.name}: {d.parts()}, and {size(d.free)} are free, of "
            f"which {size(d.margin)} are to stay free; kv_budget = {small.config.budget} takes it nevertheless"
        )
    most, limit = small.n_ctx_train // _N_PAD, f"with a larger one the text would end at the trained length of {small.n_ctx_train:,}"
    if n_ctx:
        most, limit = _n_padded(n_ctx), f"the context is {n_ctx:,} tokens long"
    n, fits = _search(at, small, most)
    return Fit(fits.config.budget, fits, limit if n >= most else "the largest that fits")


def _n_padded(n_cells: int) -> int:
    return -(-n_cells // _N_PAD)


def _room(memory: Memory) -> int:
    """Bytes that are left on the fullest of the devices that hold the cache; below 0 it does not fit."""
    return min((d.left for d in memory.devices if d.cache and d.free), default=0)


def _search(at, small: Memory, most: int) -> tuple:
    """(n, Memory) of about the largest that fits, with n times _N_PAD cells.

    Args:
        at: gives the Memory of n.
        small: one that fits.
        most: the largest n that is of use.
    """
    low, fits, high, over = small.n_cells // _N_PAD, small, most, None
    for _ in range(_N_TRIES):
        if high - low <= low // _N_NEAR:
            break
        n = high
        if over is not None:  # what is left falls by about as much for each cell; over has high + 1
            n = low + (high + 1 - low) * _room(fits) // (_room(fits) - _room(over))
            n = min(max(n, low + 1), high)
        found = at(n)
        if _room(found) >= 0:
            low, fits = n, found
        else:
            high, over = n - 1, found
    return low, fits
