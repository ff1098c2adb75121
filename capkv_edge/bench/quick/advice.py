"""The one command line that a quick run recommends, with its reason and its arithmetic."""

import shlex
from dataclasses import dataclass, field
from math import isfinite

from ...units import size
from . import words
from .found import Cache, Found, Ratio


@dataclass(frozen=True)
class Advice:
    """What to type, and why."""

    command: str
    cache: Cache
    headline: str
    reasons: list  #: sentences, with all figures
    warnings: list = field(default_factory=list)  #: sentences: what the figures do not carry

    @property
    def is_budget(self) -> bool:
        """Whether a budget is worth it."""
        return self.cache.setup.on


def times(found: Ratio) -> str:
    """A ratio of speeds as text: "1.53 times (1.50 to 1.56)"."""
    return f"{found.mean:.2f} times" + (f" ({found.lo:.2f} to {found.hi:.2f})" if found.n > 1 else "")


def command_of(cache: Cache, model: str) -> str:
    """The line to type for a cache."""
    chat = f"capkv-chat {shlex.quote(model)}"
    if cache.setup.on:
        return f"{chat} --budget {cache.budget} --type {cache.setup.type}"
    kinds = "" if cache.is_base else f" --cache-type-k {cache.setup.type} --cache-type-v {cache.setup.type}"
    return f"{chat} --budget 0{kinds}"


def choose(found: Found, max_kl: float, model: str, n_ctx_train: int = 0) -> Advice | None:
    """Of the caches that lose at most max_kl nats a token, the one that takes the least memory. None before speed and memory were
    measured.

    Args:
        model: what the user calls the model.
        n_ctx_train: its trained length in tokens.
    """
    seen = [one for one in found.caches if isfinite(one.n_bytes)]
    good = [one for one in seen if one.kl.mean <= max_kl]
    if not any(one.setup.on for one in seen) or not good:
        return None
    best = min(good, key=lambda one: (one.n_bytes, one.kl.mean))
    rival = min((one for one in good if not one.setup.on), key=lambda one: one.n_bytes, default=None)
    if best.setup.on:
        headline = f"A budget of {best.budget:,} tokens with K and V in {best.setup.type} is worth it."
        reasons = [_why(best, seen, max_kl), _arithmetic(best, rival, found), *_speed(best, found)]
    else:
        headline = f"No budget is worth it on documents of {found.n_ctx:,} tokens: keep the full cache in {best.setup.type}."
        reasons = [_why(best, seen, max_kl), *(_why_not(one, best, max_kl) for one in seen if one.setup.on), _growth(best)]
        reasons += _speed(best, found)
    return Advice(command_of(best, model), best, headline, reasons, _warnings(best, found, max_kl, n_ctx_train))


def _why(best: Cache, seen: list, max_kl: float) -> str:
    what = f"Of the {len(seen)} caches below whose memory was measured it is the smallest that loses at most {max_kl:g} nats a token"
    if best.is_base:
        return f"{what}: the quantized caches and the budgets that are smaller lose more."
    share = best.times.get("q4_0", float("nan"))
    beside = f", {share:.2f} times what the full cache in q4_0 loses" if isfinite(share) and best.setup.name != "q4_0" else ""
    return f"{what}: {words.number(best.kl.mean)}{beside}. The likeliest next token stays the same in {100 * best.same.mean:.1f} %."


def _why_not(one: Cache, best: Cache, max_kl: float) -> str:
    faults = []
    if one.kl.mean > max_kl:
        faults.append(f"loses {words.number(one.kl.mean)} nats, more than {max_kl:g}")
    if one.n_bytes >= best.n_bytes:
        faults.append(f"takes {size(one.n_bytes)}, and the full cache in {best.setup.type} takes {size(best.n_bytes)}")
    return f"A budget of {one.budget:,} {'; it '.join(faults)}."


def _arithmetic(best: Cache, rival: Cache | None, found: Found) -> str:
    row = best.row
    cells, observed = row["bytes_kv"], row["bytes_obs"]
    text = (
        f"Memory: {row['n_cells']:,} cells (budget {best.budget:,} + headroom {row['n_cells'] - best.budget:,}) x "
        f"{size(cells / row['n_cells'])} = {size(cells)}, + {size(observed)} of observed queries + {size(best.n_bytes - cells - observed)} "
        f"of positions and work memory of an eviction = {size(best.n_bytes)}, however long the text becomes."
    )
    if rival:
        n = rival.row["n_cells"]
        text += (
            f" The smallest full cache within the limit is {rival.setup.type}: {size(rival.n_bytes)} after {n:,} tokens, "
            f"{rival.n_bytes / best.n_bytes:.2f} times as much, and {size(rival.n_bytes / n)} more with each further token."
        )
    return text


def _growth(best: Cache) -> str:
    n = best.row["n_cells"]
    return (
        f"Memory: {size(best.n_bytes)} after {n:,} tokens, {size(best.n_bytes / n)} for each; capkv-chat takes that for as many tokens as "
        "--ctx gives it. A text without an end needs a budget."
    )


def _speed(best: Cache, found: Found) -> list:
    reads, decodes = found.reading(best), found.decoding(best)
    if best.is_base or not (isfinite(reads.mean) and isfinite(decodes.mean)):
        return []
    bounds = f", paired; in brackets {'the 95 % interval' if reads.is_interval else 'the lowest and the highest'}" if reads.n > 1 else ""
    return [
        f"Speed: it reads {found.n_ctx:,} tokens {times(reads)} and decodes behind them {times(decodes)} as fast as the full f16 cache "
        f"({reads.n} round{'s' * (reads.n > 1)}{bounds})."
    ]


def _warnings(best: Cache, found: Found, max_kl: float, n_ctx_train: int) -> list:
    out = []
    if not best.setup.on and found.n_ctx < n_ctx_train:
        out.append(
            f"The documents have {found.n_ctx:,} tokens, and the model was trained for {n_ctx_train:,}. A full cache grows with them, "
            "and the headroom of a budget does not: more --minutes with another --folder, or --ctx, measure longer documents."
        )
    kl = best.kl
    if best.loss and not kl.known:
        out.append(
            f"{kl.n} document{'s are' if kl.n > 1 else ' is'} too few for an interval: other text like this may lose more. The same "
            "command goes on and measures more of them."
        )
    elif best.loss and kl.hi > max_kl:
        out.append(f"The interval of the loss reaches up to {words.number(kl.hi)}, above {max_kl:g}: other text like this may lose more.")
    if best.setup.on:
        out.append("What is evicted is gone: the loss is that of the next token, not that of finding an exact string of long ago.")
    return out
