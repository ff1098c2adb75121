"""The tests of a rate, from rows: the rounds of a test as one, and each setup against the full cache of the same round."""

import re
import statistics
from math import exp, log

import numpy as np

from ..intervals import Interval, intervals
from ..kinds import KINDS

ROUND, FULL = "round", "full"
_AVERAGED = ("evict_share", "evict_ms", "score_ms", "select_ms", "compact_ms", "n_evictions", "amortized_ts", "fill_ts", "fill_evict_share")
_LARGEST = ("bytes_peak", "bytes_device")


def merge_rounds(rows: list[dict]) -> list[dict]:
    """Rows of one kind, those of the same test in all its rounds as one, in the order in which the tests first came.

    A merged row has all samples with their mean, standard deviation and median, the means of the other rates and shares, and
    the largest peaks. It has an `error` only where no round has a figure, and a `ratio` where a round has the full cache's.
    """
    groups: dict = {}
    for row in rows:
        key = tuple(row.get(name) for name in KINDS[row["kind"]].key if name != ROUND)
        groups.setdefault(key, []).append(row)
    full = {_place(row): row for row in rows if row["setup"] == FULL and row["samples_ts"]}
    return [_merge(group) | _ratio(group, full) for group in groups.values()]


def _place(row: dict) -> tuple:
    """What a row shares with that of the full cache in the same round."""
    return tuple(row.get(name) for name in ("model_hash", "test", "device", "lib", "n_threads", "n_gpu_layers", ROUND))


def _rates(row: dict) -> list:
    """The samples of a row. Where it evicted: the rate in the long run, since by chance a short test has an eviction more or less."""
    return [row["amortized_ts"]] if row.get("amortized_ts") else row["samples_ts"]


def _ratio(group: list, full: dict) -> dict:
    """{ratio: Interval} of the rates of a test over those of the full cache, each in its round: a mean of logarithms, so that
    twice and half as fast are equally far from 1. {} where no round has both."""
    pairs = [(row, full[_place(row)]) for row in group if row["samples_ts"] and row["setup"] != FULL and _place(row) in full]
    if not pairs:
        return {}
    logs = [log(statistics.fmean(_rates(own)) / statistics.fmean(_rates(base))) for own, base in pairs]
    found = intervals(np.array(logs)[:, None])[0]
    return dict(ratio=Interval(exp(found.mean), exp(found.lo), exp(found.hi), found.n))


def _merge(rows: list) -> dict:
    good = [row for row in rows if row["samples_ts"]]
    out = {**(good or rows)[-1], "n_rounds": len(good), "n_failed": len(rows) - len(good)}
    out.pop(ROUND)
    if not good:
        return out
    samples = [sample for row in good for sample in _rates(row)]
    out |= dict(samples_ts=samples, avg_ts=statistics.fmean(samples), median_ts=statistics.median(samples))
    out |= dict(stddev_ts=statistics.stdev(samples) if len(samples) > 1 else 0.0)
    for name in _AVERAGED:
        values = [row[name] for row in good if row.get(name) is not None]
        if values:
            out[name] = statistics.fmean(values)
    for name in _LARGEST:
        out[name] = max((row[name] for row in good if row.get(name) is not None), default=None)
    return out


def _order(row: dict) -> tuple:
    """Machine by machine and depth by depth: the full cache, those of other types, then policies by name and budget."""
    machine = tuple(str(row.get(name)) for name in ("model_hash", "device", "n_threads"))
    policy, budget = row.get("policy") or "", row.get("budget") or 0
    return (*machine, row.get("n_depth") or 0, policy, row["setup"] != FULL, budget, row["setup"], -(row.get("n_prompt") or 0))


def tests(rows: list[dict], kind: str) -> list[dict]:
    """The tests of a kind. A setup's name loses its headroom where no other setup has the same name without it: its cells say it."""
    found = [row for row in rows if row.get("kind") == kind]
    if any(ROUND in row for row in found):
        found = sorted(merge_rounds(found), key=_order)  # rows come in the order of turns, which chance made
    short: dict = {}
    for row in found:
        short.setdefault(re.sub(r",headroom=\d+", "", row["setup"]), set()).add(row["setup"])
    names = {full: name for name, same in short.items() for full in same if len(same) == 1}
    return [row | dict(setup=names.get(row["setup"], row["setup"])) for row in found]


def controls(found: list[dict]) -> list[dict]:
    """Of tests, those with a ratio to the full cache that has to be 1 but for chance: at depth 0, where a policy has not evicted
    yet and holds the same types."""
    return [
        row
        for row in found
        if row.get("ratio") and not row.get("n_depth") and not row.get("n_evictions") and row.get("policy") and row.get("type_k") == "f16"
    ]
