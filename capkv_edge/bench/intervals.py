"""Intervals of means over documents or texts: a percentile bootstrap with a fixed seed, corrected for small samples."""

from dataclasses import dataclass
from functools import lru_cache
from math import nan, sqrt
from statistics import NormalDist

import numpy as np

N_RESAMPLES = 2000
SEED = 1
LEVEL = 0.95
MIN_UNITS = 5  #: with fewer units a bootstrap's interval covers the mean less than 95 % of the time, so none is given


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
