"""The tests of a rate, from rows: the rounds of a test as one."""

import re
import statistics

from ..kinds import KINDS

ROUND = "round"
_AVERAGED = ("evict_share", "evict_ms", "score_ms", "select_ms", "compact_ms", "n_evictions", "amortized_ts", "fill_ts", "fill_evict_share")
_LARGEST = ("bytes_peak", "bytes_device")


def merge_rounds(rows: list[dict]) -> list[dict]:
    """Rows of one kind, those of the same test in all its rounds as one, in the order in which the tests first came.

    A merged row has all samples with their mean, standard deviation and median, the means of the other rates and shares, and
    the largest peaks. It has an `error` only where no round has a figure.
    """
    groups: dict = {}
    for row in rows:
        key = tuple(row.get(name) for name in KINDS[row["kind"]].key if name != ROUND)
        groups.setdefault(key, []).append(row)
    return [_merge(group) for group in groups.values()]


def _merge(rows: list) -> dict:
    good = [row for row in rows if row["samples_ts"]]
    out = {**(good or rows)[-1], "n_rounds": len(good), "n_failed": len(rows) - len(good)}
    out.pop(ROUND)
    if not good:
        return out
    samples = [sample for row in good for sample in row["samples_ts"]]
    out |= dict(samples_ts=samples, avg_ts=statistics.fmean(samples), median_ts=statistics.median(samples))
    out |= dict(stddev_ts=statistics.stdev(samples) if len(samples) > 1 else 0.0)
    for name in _AVERAGED:
        values = [row[name] for row in good if row.get(name) is not None]
        if values:
            out[name] = statistics.fmean(values)
    for name in _LARGEST:
        out[name] = max((row[name] for row in good if row.get(name) is not None), default=None)
    return out


def tests(rows: list[dict], kind: str) -> list[dict]:
    """The tests of a kind. A setup's name loses its headroom where no other setup has the same name without it."""
    found = [row for row in rows if row.get("kind") == kind]
    if any(ROUND in row for row in found):
        found = merge_rounds(found)
    short: dict = {}
    for row in found:
        short.setdefault(re.sub(r",headroom=\d+", "", row["setup"]), set()).add(row["setup"])
    names = {full: name for name, same in short.items() for full in same if len(same) == 1}
    return [row | dict(setup=names.get(row["setup"], row["setup"])) for row in found]
