"""Figures of a quick run as text, for the page and the terminal."""

from math import isfinite

from ...units import size
from ..intervals import Interval
from ..report.tables import NOTHING
from .found import Cache, Found, Ratio


def number(nats: float) -> str:
    """A loss without its interval: "0.0213"."""
    return f"{nats:.{_digits(nats)}f}"


def _digits(nats: float) -> int:
    return 4 if nats < 0.1 else 3


def nats(found: Interval) -> str:
    """A loss: "0.0213 [0.0180, 0.0250]"."""
    digits = _digits(found.mean)
    bounds = f" [{found.lo:.{digits}f}, {found.hi:.{digits}f}]" if found.known else ""
    return f"{found.mean:.{digits}f}{bounds}" if isfinite(found.mean) else NOTHING


def share(found: Interval) -> str:
    """A share in percent: "91.2 [90.1, 92.3]"."""
    bounds = f" [{100 * found.lo:.1f}, {100 * found.hi:.1f}]" if found.known else ""
    return f"{100 * found.mean:.1f}{bounds}" if isfinite(found.mean) else NOTHING


def ratio(found: Ratio, brief: bool = False) -> str:
    """How many times as fast: "1.53 [1.50, 1.56]", with the interval in square brackets or the extremes in round ones."""
    if not isfinite(found.mean):
        return NOTHING
    left, right = "[]" if found.is_interval else "()"
    return f"{found.mean:.2f}" + (f" {left}{found.lo:.2f}, {found.hi:.2f}{right}" if found.n > 1 and not brief else "")


def times(cache: Cache, name: str) -> str:
    """How many times the loss of a quantized cache a cache loses."""
    value = cache.times.get(name, float("nan"))
    if not isfinite(value) or cache.setup.name == name:
        return NOTHING
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def rate(by_round: dict) -> str:
    """Tokens per second: the mean over rounds."""
    return f"{sum(by_round.values()) / len(by_round):.1f}" if by_round else NOTHING


def mib(value: float) -> str:
    return size(value) if isfinite(value) else NOTHING


def measured(found: Found) -> str:
    """What the figures are means over."""
    n = f"{found.n_docs} document{'' if found.n_docs == 1 else 's'} of {found.n_ctx:,} tokens"
    return f"{n}, {found.n_rounds} round{'' if found.n_rounds == 1 else 's'} of speed"


def equal_bytes(found: Found, brief: bool = False) -> str:
    """The comparison at the bytes of the full cache in q4_0, in a sentence; empty where it was not measured."""
    paired = found.equal
    if paired is None:
        return ""
    own, other, d = paired.own, paired.other, paired.difference
    loss, base = (one.figures["kl_mean"].mean for one in (own, other))
    judged = {"wins": "less", "loses": "more", "ties": "not told apart"}.get(paired.verdict, f"too few documents ({d.n}) for a verdict")
    if brief:
        return f"at the bytes of q4_0 a budget in q8_0 loses {number(loss)} nats, q4_0 {number(base)}: {judged}"
    interval = f" [{d.lo:+.4f}, {d.hi:+.4f}]" if d.known else ""
    return (
        f"At equal bytes a budget of {own.budget:,} tokens in q8_0 ({size(own.bytes_total)}) loses {number(loss)} nats and the full cache "
        f"in q4_0 ({size(other.bytes_total)}) {number(base)}, a difference of {d.mean:+.4f}{interval}: {judged}."
    )
