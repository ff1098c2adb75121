"""Figures of a quick run as text, for the page and the terminal."""

from math import isfinite

from ...units import size
from ..intervals import Interval
from ..report.tables import NOTHING
from .found import VERDICTS, Cache, Found, Ratio


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


def equal_bytes(found: Found, name: str, brief: bool = False) -> str:
    """The largest budget that takes no more bytes than a quantized full cache beside that one, in a sentence; empty where one of both
    was not measured."""
    paired, full = found.beside(name), found.get(name)
    if full is None:
        return ""
    if paired is None:
        return f"No budget here takes as few bytes as the full cache in {name} ({size(full.held)})."
    own, d = paired.own, paired.difference
    loss, base = (one.figures["kl_mean"].mean for one in (own, paired.other))
    judged = VERDICTS.get(paired.verdict, f"too few documents ({d.n}) for a verdict")
    held = f"A budget of {own.budget:,} in {own.type_k} ({size(own.bytes_total)}) loses {number(loss)} nats"
    if brief:
        return f"{held}, the full cache in {name} ({size(full.held)}) {number(base)}: {judged}"
    interval = f" [{d.lo:+.4f}, {d.hi:+.4f}]" if d.known else ""
    return f"{held}, the full cache in {name} ({size(full.held)}) {number(base)}, a difference of {d.mean:+.4f}{interval}: {judged}."
