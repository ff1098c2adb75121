"""Distributions of the scores of entries: histograms for each KV head, of those that stay and those that go."""

from dataclasses import dataclass

import numpy as np

N_BINS = 40
_SPREAD = 30  # scores whose 95th and 5th percentile differ by this factor are counted in bins of their logarithm


@dataclass
class ScoreSummary:
    """Of the entries that an eviction may choose from: the sinks, the recent window and pinned entries are not counted.

    The bins of a head divide what lies between its 1st and 99th percentile; the first and last bin also count what lies beyond.
    """

    is_log: bool  #: whether bins and edge are log10 of scores
    low: np.ndarray  #: lower end of the first bin: float32 [n_heads]
    high: np.ndarray  #: upper end of the last bin: float32 [n_heads]
    kept: np.ndarray  #: entries in each bin that stay: int [n_heads, N_BINS]
    dropped: np.ndarray  #: those that go: int [n_heads, N_BINS]
    edge: np.ndarray  #: the lowest score that stays; NaN where nothing goes: float32 [n_heads]


def summarize(positions, scores, candidates, kept=None, n_dropped: int = 0) -> ScoreSummary | None:
    """Histograms of the scores of some entries; None where there are none to choose from.

    Args:
        positions, scores: of all entries, [n_heads, n].
        candidates: a function of positions that says which entries may be dropped, bool [n_heads, n].
        kept: positions that each head still holds after the eviction, or None for one that did not happen.
        n_dropped: where kept is None, how many entries of each head an eviction would drop.
    """
    free = candidates(positions)
    if not free.any():
        return None
    some = scores[free & np.isfinite(scores)]
    if not len(some):
        return None
    scores = np.where(np.isfinite(scores), scores, some.min())  # the selection takes them as lower than all others
    low, high = np.percentile(some, [5, 95])
    is_log = bool(low > 0 and high > _SPREAD * low)
    if is_log:
        scores = np.log10(np.maximum(scores, some[some > 0].min()))

    n_heads = len(positions)
    ends = np.zeros((n_heads, 2), dtype=np.float32)
    counts = np.zeros((2, n_heads, N_BINS), dtype=np.int64)
    edge = np.full(n_heads, np.nan, dtype=np.float32)
    for h in range(n_heads):
        mine = np.flatnonzero(free[h])
        if not len(mine):
            continue
        values = scores[h, mine]
        if kept is not None:
            stays = np.isin(positions[h, mine], kept[h])
        else:
            stays = np.ones(len(mine), dtype=bool)
            stays[np.lexsort((mine, values))[:n_dropped]] = False  # of equal scores the later entry stays
        ends[h] = _ends(values)
        bins = _bins(values, *ends[h])
        for side, which in enumerate((stays, ~stays)):
            counts[side, h] = np.bincount(bins[which], minlength=N_BINS)
        if stays.any() and not stays.all():
            edge[h] = values[stays].min()
    return ScoreSummary(is_log, ends[:, 0], ends[:, 1], counts[0], counts[1], edge)


def _ends(values: np.ndarray) -> tuple:
    low, high = np.percentile(values, [1, 99])
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _bins(values: np.ndarray, low: float, high: float) -> np.ndarray:
    place = (values.astype(np.float64) - low) / (float(high) - low) * N_BINS
    return np.clip(place, 0, N_BINS - 1).astype(np.int64)
