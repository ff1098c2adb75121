"""Intervals of means over documents or texts, and tests of them: a percentile bootstrap with a fixed seed, corrected for small
samples; Student's t test; Holm's correction for many tests."""

from dataclasses import dataclass
from functools import lru_cache
from math import atan, ceil, cos, isfinite, log2, nan, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

N_RESAMPLES = 2000
SEED = 1
LEVEL = 0.95
MIN_UNITS = 5  #: with fewer units a bootstrap's interval covers the mean less than 95 % of the time, so none is given
#: With fewer units no test is made. One that knows signs alone has 2 / 2^n as its smallest two-sided p: .0625 with five units,
#: .031 with six.
MIN_TESTED = ceil(log2(2 / (1 - LEVEL)))


@dataclass(frozen=True)
class Interval:
    """A mean over n units and its 95 % interval; lo and hi are nan where the units are too few."""

    mean: float
    lo: float
    hi: float
    n: int

    @property
    def known(self) -> bool:
        return self.lo == self.lo and self.hi == self.hi


@lru_cache(maxsize=256)
def _weights(n: int) -> np.ndarray:
    """Share of each unit in each resample: [N_RESAMPLES, n]. The same for all figures of n units."""
    return np.random.default_rng((SEED, n)).multinomial(n, [1 / n] * n, size=N_RESAMPLES) / n


def _tail(n: int) -> float:
    """Which quantile of the resampled means is the lower bound.

    The plain 2.5 % quantile is too narrow for few units: by the factor sqrt((n - 1) / n), and because it takes the normal
    distribution where Student's t belongs. So this is the quantile that lies as far out as the t interval would (the expanded
    percentile interval, Hesterberg, arXiv 1411.5279).
    """
    z, v = NormalDist().inv_cdf((1 + LEVEL) / 2), n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)  # Student's t, by its expansion in powers of 1/v
    return NormalDist().cdf(-sqrt(n / v) * t)


def intervals(values: np.ndarray) -> list[Interval]:
    """One Interval per column of values [n_units, n_figures]. A figure with a value that is not finite has no mean."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return [Interval(nan, nan, nan, 0)] * values.shape[1]
    finite = np.isfinite(values).all(axis=0)
    means = np.where(finite, np.where(finite, values, 0).mean(axis=0), nan)
    if n < MIN_UNITS:
        return [Interval(float(mean), nan, nan, n) for mean in means]
    # differences from the mean: of equal values they are exactly 0, and so is the width of the interval
    centre = np.where(finite, means, 0)
    moved = _weights(n) @ (np.where(finite, values, 0) - centre)
    bounds = centre + np.quantile(moved, [_tail(n), 1 - _tail(n)], axis=0)
    # set bounds that rounding moved away from zero to zero, since a verdict depends on their sign
    bounds[np.abs(bounds) < 1e-12 * np.abs(np.where(finite, values, 0)).max(axis=0)] = 0
    return [
        Interval(float(mean), float(lo), float(hi), n) if ok else Interval(nan, nan, nan, n)
        for mean, lo, hi, ok in zip(means, *bounds, finite)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# tests


def p_value(values) -> float:
    """Two-sided p of Student's t test that the mean of values [n_units] is 0; nan with fewer than MIN_TESTED or one not finite.

    With v = n - 1 degrees of freedom and theta = atan(t / sqrt(v)), the distribution of t is a finite sum of powers of
    cos(theta): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < MIN_TESTED or not np.isfinite(values).all():
        return nan
    error = values.std(ddof=1) / sqrt(n)
    mean = abs(values.mean())
    if error <= 1e-12 * mean or mean == 0:  # all values are equal, but for rounding
        return 0.0 if mean else 1.0
    v, theta = n - 1, atan(mean / error / sqrt(n - 1))
    odd, term, total = v % 2, 1.0, 0.0
    for i in range(v // 2):
        total += term
        term *= cos(theta) ** 2 * (2 * i + 1 + odd) / (2 * i + 2 + odd)
    inside = 2 / pi * (theta + sin(theta) * cos(theta) * total) if odd else sin(theta) * total
    return min(max(1 - inside, 0.0), 1.0)


def holm(p_values) -> list[float]:
    """The p values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6:65): in ascending order times the
    number of those that are left, and never below one before. nan stays nan and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if isfinite(p))
    out, largest = [nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        out[i] = largest
    return out
