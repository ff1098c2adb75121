"""What rows of a quick run say of each cache: its loss, its memory, its speed beside the full cache's."""

from dataclasses import dataclass, field
from math import nan

import numpy as np

from ..intervals import Interval, intervals
from ..kinds import FIDELITY, SPEED
from ..report.summary import Comparison, Summary, compare, summaries
from ..run.setups import Setup
from .steps import FLOOR, PARTS, as_in_chat, core, more

KL, SAME_TOP = "kl_mean", "same_top"
BASE = "q4_0"  #: the full cache whose loss the others are compared with
#: verdicts of a Comparison of losses, in words about the loss
VERDICTS = {"wins": "less", "ties": "not told apart", "loses": "more", "floor": "on the floor"}


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the full cache, over rounds: mean, and a 95 % interval or, of few rounds, the extremes."""

    mean: float
    lo: float
    hi: float
    n: int
    is_interval: bool

    @classmethod
    def of(cls, own: dict, other: dict) -> "Ratio":
        """From rates by round, of which those of the same round are paired."""
        pairs = [own[i] / other[i] for i in sorted(own) if i in other]
        if not pairs:
            return cls(nan, nan, nan, 0, False)
        found = intervals(np.array(pairs)[:, None])[0]
        if found.known:
            return cls(found.mean, found.lo, found.hi, found.n, True)
        return cls(found.mean, min(pairs), max(pairs), found.n, False)


@dataclass(frozen=True)
class Cache:
    """One way to hold the text. What was not measured is nan, or an empty dict."""

    setup: Setup  #: as its loss was measured
    label: str
    is_first: bool  #: one of the caches that every run measures, not of those for which time was left
    loss: Summary | None = None  #: None for the full cache, which is the base
    held: float = nan  #: bytes while the loss was measured
    share: float = nan  #: of the full f16 cache's bytes
    verdict: str = ""  #: its loss against BASE's, over the same documents
    times: dict = field(default_factory=dict)  #: q8_0, q4_0 -> how many times that cache's loss
    reads: dict = field(default_factory=dict)  #: round -> tokens per second over the whole document
    decodes: dict = field(default_factory=dict)  #: round -> tokens per second behind it
    row: dict = field(default_factory=dict)  #: the last row of its speed: memory as capkv-chat would have it

    @property
    def kl(self) -> Interval:
        """Mean KL divergence in nats; 0 for the full cache."""
        return self.loss.figures[KL] if self.loss else Interval(0, nan, nan, 0)

    @property
    def same(self) -> Interval:
        """Share of tokens with the same likeliest next token."""
        return self.loss.figures[SAME_TOP] if self.loss else Interval(1, nan, nan, 0)

    @property
    def budget(self) -> int | None:
        """Tokens; None without one."""
        return self.setup.budget or None

    @property
    def is_base(self) -> bool:
        """Whether it is the full f16 cache."""
        return self.setup == Setup()

    @property
    def n_bytes(self) -> float:
        """Bytes of the cache as capkv-chat would have it, after the document."""
        return self.row.get("bytes_total", nan)

    @property
    def peak(self) -> float:
        """Largest resident memory of its process, in bytes."""
        return self.row.get("bytes_peak") or nan


@dataclass(frozen=True)
class Found:
    """Everything that a page shows. `caches` has the full cache first."""

    caches: list
    n_ctx: int
    rows: list = field(repr=False)

    def get(self, name: str) -> Cache | None:
        """The cache with this setup."""
        return next((one for one in self.caches if one.setup.name == name), None)

    @property
    def full(self) -> Cache:
        """The full f16 cache."""
        return self.caches[0]

    @property
    def n_docs(self) -> int:
        """Texts on which all caches that every run measures have a loss."""
        counts = {one.setup: one.loss.n for one in self.caches if one.loss}
        return min(counts.get(setup, 0) for setup in core(self.n_ctx))

    @property
    def n_rounds(self) -> int:
        """Rounds of speed."""
        return len(self.full.decodes)

    def reading(self, one: Cache) -> Ratio:
        """How many times as fast as the full cache a cache reads a document."""
        return Ratio.of(one.reads, self.full.reads)

    def decoding(self, one: Cache) -> Ratio:
        """The same of decoding behind it."""
        return Ratio.of(one.decodes, self.full.decodes)

    def beside(self, name: str) -> Comparison | None:
        """The Comparison of losses of the largest budget that held no more bytes than a quantized full cache with that one; None
        where no budget did."""
        other = self.get(name)
        fits = [one for one in self.caches if one.loss and one.setup.on and other and one.held <= other.held]
        if not fits:
            return None
        own = max(fits, key=lambda one: (one.held, one.is_first))
        return compare(own.loss, other.loss, KL, "bytes")


def _label(setup: Setup, n_ctx: int) -> str:
    if setup == FLOOR:
        return "full, f16: rounding"
    return f"budget {setup.budget:,} ({PARTS[n_ctx // setup.budget]}), {setup.type}" if setup.on else f"full, {setup.type}"


def _times(own: Summary | None, other: Summary | None) -> float:
    """How many times the other's loss, over the documents that both have."""
    common = [key for key in own.values if key in other.values] if own and other else []
    column = list(own.figures).index(KL) if own else 0
    losses = [sum(float(np.mean(list(one.values[key].values()), axis=0)[column]) for key in common) for one in (own, other) if one]
    return losses[0] / losses[1] if common and losses[1] > 0 else nan


def _rates(rows: list, setup: Setup) -> tuple:
    """(reading rates by round, decoding rates by round, the last row) of a setup as capkv-chat would have it."""
    own = [row for row in rows if row["setup"] == as_in_chat(setup).name and row.get("avg_ts")]
    # an eviction more or less in so few tokens is chance: the rate in the long run spreads them over the tokens between two
    decodes = {row["round"]: row.get("amortized_ts") or row["avg_ts"] for row in own}
    return {row["round"]: row["fill_ts"] for row in own if row.get("fill_ts")}, decodes, own[-1] if own else {}


def find(rows: list) -> Found | None:
    """What the rows of one quick run say; None where they have no loss yet."""
    losses = {one.setup: one for one in summaries(rows, FIDELITY.name)}
    if not losses:
        return None
    n_ctx = next(iter(losses.values())).group["n_ctx"]
    speeds = [row for row in rows if row["kind"] == SPEED.name]
    first, out = core(n_ctx), []
    quantized = {name: losses.get(name) for name in ("q8_0", BASE)}
    for setup in (Setup(), *first, *more(n_ctx)):
        loss = losses.get(setup.name)
        if loss is None and setup != Setup():
            continue
        held, share = (loss.bytes_total, loss.share) if loss else (next(iter(losses.values())).bytes_full, 1.0)
        verdict, base = "", losses.get(BASE)
        if loss and base and setup.name != BASE:
            verdict = VERDICTS.get(compare(loss, base, KL).verdict, "")
        reads, decodes, row = _rates(speeds, setup)
        out.append(
            Cache(
                setup=setup,
                label=_label(setup, n_ctx),
                is_first=setup == Setup() or setup in first,
                loss=loss,
                held=held,
                share=share,
                verdict=verdict,
                times={name: _times(loss, other) for name, other in quantized.items() if other and loss},
                reads=reads,
                decodes=decodes,
                row=row,
            )
        )
    return Found(out, n_ctx, rows)
