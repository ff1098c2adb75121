"""The default policy against each other one over all groups and budgets at once.

The units are documents or texts, not cells: the cells of one document are not independent of each other. So a document's
differences are averaged over its cells first, and the interval and the test are over documents.
"""

from dataclasses import dataclass, replace
from math import exp, log, nan

import numpy as np

from ..intervals import Interval, holm, intervals, p_value
from ..kinds import Figure, text_of
from .summary import Comparison, figure_of, judge, stands

_WAYS = ("budget", "bytes", "")  # of being comparable, in the order in which they are told


@dataclass(frozen=True)
class Pooled:
    """All comparisons of two series that have the same equal, of one model and figure."""

    cells: list  #: of Comparison
    equal: str  #: "budget", "bytes", or "" where the other is the full cache
    effect: Interval  #: own figure over the other's where the figure is relative, else own minus other
    p: float = nan  #: that there is no difference, by Student's t test over the units
    p_holm: float = nan  #: the same, corrected for all Pooled of the figure
    is_held_out: bool = False  #: the cells are those of texts alone on which no option was chosen, while there are others

    @property
    def own(self) -> str:
        """The series that the verdict is about."""
        return self.cells[0].own.series

    @property
    def other(self) -> str:
        """The series that it is compared with."""
        return self.cells[0].other.series

    @property
    def figure(self) -> Figure:
        return figure_of(self.cells[0].own.kind, self.cells[0].figure)

    @property
    def distance(self) -> float:
        """How far both are from each other: the logarithm of a ratio, or a difference."""
        return log(self.effect.mean) if self.figure.relative else self.effect.mean

    @property
    def used(self) -> list:
        """The cells that are pooled: those that have pairs and are not on the floor."""
        return [one for one in self.cells if len(one.pairs) and not one.on_floor]

    @property
    def verdict(self) -> str:
        """As judge() gives it; "floor" where all cells are on the floor."""
        if self.cells and all(one.on_floor for one in self.cells):
            return "floor"
        return judge(self.effect, self.figure.better, 1 if self.figure.relative else 0)

    @property
    def stands(self) -> bool:
        """Whether it wins or loses also after Holm's correction."""
        return stands(self.verdict, self.p_holm)


def pool(found: list[Comparison]) -> list[Pooled]:
    """The comparisons of one figure by model, series and what is equal; sorted by the other's name, equal budgets first.

    A comparison of setups with equal budgets and equal bytes is in both. Where some texts are held out and others are not, what
    the held-out ones give comes first, then what all give.
    """
    groups: dict = {}
    parts = [(0, [one for one in found if one.is_held_out])] if len({one.is_held_out for one in found}) > 1 else []
    for part, members in [*parts, (1, found)]:
        for one in members:
            for way in one.ways:
                key = (one.own.model, one.own.model_hash, _WAYS.index(way), part, one.own.series, one.other.series)
                groups.setdefault(key, []).append(one)
    out = [replace(_pooled(groups[key], _WAYS[key[2]]), is_held_out=key[3] == 0) for key in sorted(groups)]
    return [replace(one, p_holm=p) for one, p in zip(out, holm([one.p for one in out]))]


def _pooled(cells: list[Comparison], equal: str) -> Pooled:
    kind, figure = cells[0].own.kind, figure_of(cells[0].own.kind, cells[0].figure)
    units: dict = {}
    for cell in Pooled(cells, equal, Interval(nan, nan, nan, 0)).used:
        source = tuple(text_of(cell.own.group[name]) for name in kind.source)
        for unit, effect in zip(cell.units, _effects(cell.pairs, figure)):
            units.setdefault((source, text_of(unit)), []).append(effect)
    means = np.array([np.mean(effects) for _, effects in sorted(units.items())])
    (effect,) = intervals(means[:, None]) if len(means) else [Interval(nan, nan, nan, 0)]
    p = p_value(means)
    if figure.relative:
        effect = Interval(exp(effect.mean), exp(effect.lo), exp(effect.hi), effect.n)
    return Pooled(cells, equal, effect, p)


def _effects(pairs: np.ndarray, figure: Figure) -> np.ndarray:
    """How own and other figure [n_units, 2] differ: the log of their ratio where the figure is relative, else own minus other.

    A ratio with a figure of 0 or less is not a number, and then there is no mean.
    """
    if figure.relative:
        pairs = np.log(np.where(pairs > 0, pairs, nan))
    return pairs[:, 0] - pairs[:, 1]
