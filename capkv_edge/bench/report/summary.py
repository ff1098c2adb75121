"""From rows to summaries: means over units with their intervals, paired differences, verdicts.

The unit is a document, a text or an item, never a token: the tokens of one text are not independent of each other.
Rows of one unit under several seeds or builds are averaged first. Nothing here opens a model.
"""

import json
import re
from dataclasses import dataclass, field
from math import nan

import numpy as np

from ..intervals import MIN_UNITS, Interval, intervals
from ..kinds import KINDS, Kind, text_of
from .seeds import spread

DEFAULT = "capkv"  #: the series that the others are compared with
EQUAL_BYTES = 0.05  #: caches whose sizes differ by at most this share are compared as caches of equal bytes


@dataclass(frozen=True)
class Summary:
    """All rows of one setup in one group. `values` maps (unit, seed, ...) to one array of figures per build."""

    kind: Kind
    model: str
    model_hash: str
    group: dict  #: field of the kind -> value
    setup: str
    policy: str | None
    budget: int | None
    type_k: str
    bytes_total: float
    bytes_full: float
    n_items: int
    values: dict = field(repr=False)
    figures: dict = field(repr=False)  #: name of a figure -> Interval
    seeds: tuple = (1, None)  #: as seeds.spread() gives it

    @property
    def n(self) -> int:
        """Number of units."""
        return len({key[0] for key in self.values})

    @property
    def series(self) -> str:
        """The setup without its budget: the points of one line in a plot."""
        return series_of(self.setup)

    @property
    def is_full(self) -> bool:
        """Whether it is the full cache that all others are compared with."""
        return self.setup == "full"

    @property
    def share(self) -> float:
        """Bytes held as a share of the full f16 cache."""
        return self.bytes_total / self.bytes_full if self.bytes_full else nan

    @property
    def where(self) -> str:
        """Its group in words, without the fields that tables show only where they differ."""
        return self.kind.where_of(self.group)

    @property
    def place(self) -> tuple:
        """What tells its group from others; can be sorted."""
        return (self.model, self.model_hash, *(_sortable(value) for value in self.group.values()))

    def has(self, figure: str) -> bool:
        """Whether the figure has a mean."""
        return self.figures[figure].mean == self.figures[figure].mean


@dataclass(frozen=True)
class Comparison:
    """A setup against another one over the same units. The verdict is about `own`."""

    own: Summary
    other: Summary
    figure: str
    equal: str  #: what both have equal: "budget", "bytes", or "" where the other is the full cache
    difference: Interval  #: own figure minus the other's

    @property
    def verdict(self) -> str:
        """wins, ties or loses; without an interval "too few" (units in common) or "no figure" (a value is not a number)."""
        d = self.difference
        if not d.known:
            return "too few" if d.n < MIN_UNITS else "no figure"
        if d.lo <= 0 <= d.hi:
            return "ties"
        return "wins" if (d.lo > 0) == (figure_of(self.own.kind, self.figure).better > 0) else "loses"


def figure_of(kind: Kind, name: str):
    """The Figure of a kind by its name."""
    return next(figure for figure in kind.figures if figure.name == name)


def series_of(setup: str) -> str:
    """ "capkv@512:q8_0+recall" -> "capkv:q8_0+recall"."""
    return re.sub(r"@[^:,+]*", "", setup, count=1)


def _sortable(value) -> tuple:
    return (0, value, "") if isinstance(value, (int, float)) else (1, 0, text_of(value))


def group_of(row: dict) -> tuple:
    """What a row must share with another one so that their setups can be compared."""
    return (str(row.get("model_hash", "")), *(text_of(row.get(name)) for name in KINDS[row["kind"]].fields))


def build_of(row: dict) -> str:
    """What a row was measured with, and its seed: rows of one unit that differ in it are averaged, of others the later one counts."""
    names = ("commit", "lib", "build", "pin", "n_batch", "n_threads", "device", "seed", "kv_seed")
    return json.dumps([row.get(name) for name in names], sort_keys=True)


def number(value) -> float:
    """The value as a float; nan where it is no number."""
    return float(value) if isinstance(value, (int, float)) else nan


def _mean(rows: list, name: str) -> float:
    return float(np.mean([number(row.get(name)) for row in rows]))


def _by_unit(values: dict, keys) -> np.ndarray:
    """Figures of each unit, averaged over seeds and builds: [n_units, n_figures]."""
    units = {}
    for key in keys:
        units.setdefault(key[0], []).append(np.mean(list(values[key].values()), axis=0))
    return np.array([np.mean(found, axis=0) for _, found in sorted(units.items(), key=lambda item: str(item[0]))])


def _order(one: Summary) -> tuple:
    """The full cache first, quantized ones next, then the default policy, then the others by name; budgets ascending."""
    rank = 0 if one.policy is None else 1 if one.series == DEFAULT else 2
    return (one.place, rank, -one.share if rank == 0 else 0, one.series, one.budget or 0, one.setup)


def summaries(rows: list[dict], kind: str) -> list[Summary]:
    """The summaries of a kind that is averaged, sorted. Rows of different models (model_hash) are never averaged together."""
    spec, found = KINDS[kind], {}
    for row in rows:
        if row.get("kind") == kind:
            found.setdefault((*group_of(row), row["setup"]), []).append(row)
    out = []
    for members in found.values():
        values: dict = {}
        for row in members:
            key = (row[spec.unit], *(text_of(row.get(name)) for name in spec.pair))
            values.setdefault(key, {})[build_of(row)] = np.array([number(row.get(one.name)) for one in spec.figures])
        row = members[-1]
        out.append(
            Summary(
                kind=spec,
                model=str(row.get("model", "")),
                model_hash=str(row.get("model_hash", "")),
                group={name: row.get(name) for name in spec.fields},
                setup=row["setup"],
                policy=row.get("policy"),
                budget=row.get("budget"),
                type_k=row.get("type_k") or "f16",
                bytes_total=_mean(members, "bytes_total"),
                bytes_full=_mean(members, "bytes_full"),
                n_items=sum(len(row.get("items") or ()) for row in members),
                values=values,
                figures=dict(zip((one.name for one in spec.figures), intervals(_by_unit(values, values)))),
                seeds=spread(members, spec),
            )
        )
    return sorted(out, key=_order)


def compare(own: Summary, other: Summary, figure: str, equal: str = "") -> Comparison:
    """The paired difference over the units (and seeds) that both have."""
    column = list(own.figures).index(figure)
    common = [key for key in own.values if key in other.values]
    if common:
        pairs = _by_unit(own.values, common)[:, column] - _by_unit(other.values, common)[:, column]
    else:
        pairs = np.zeros(0)
    return Comparison(own, other, figure, equal, intervals(pairs[:, None])[0])


def _equal(own: Summary, other: Summary) -> str | None:
    """What makes two setups comparable (as Comparison.equal); None where nothing does."""
    if other.is_full:
        return None if own.kind.base_is_full else ""
    if other.series == own.series:
        return None
    if other.policy is not None and other.budget == own.budget and other.type_k == own.type_k:
        return "budget"
    sizes = sorted((own.bytes_total, other.bytes_total))
    if sizes[0] > 0 and sizes[1] / sizes[0] <= 1 + EQUAL_BYTES:
        return "bytes"
    return None


def comparisons(found: list[Summary], default: str = DEFAULT, figure: str | None = None) -> list[Comparison]:
    """The default policy at each budget against all setups of the same group with an equal budget or equal bytes.

    figure: a name; None is the first figure of the kind that gets verdicts.
    """
    out = []
    for own in found:
        if own.series.partition(":")[0] == default:
            for other in found:
                equal = _equal(own, other) if other.place == own.place else None
                if equal is not None:
                    out.append(compare(own, other, figure or own.kind.judged[0].name, equal))
    return out


def all_comparisons(found: list[Summary], default: str = DEFAULT) -> list[list[Comparison]]:
    """comparisons() of each figure that gets verdicts, one list for each; of a figure that is optional, where it is known."""
    out = []
    for figure in found[0].kind.judged if found else ():
        known = [one for one in found if not figure.optional or one.has(figure.name)]
        out.append(comparisons(known, default, figure.name))
    return [paired for paired in out if paired]
