"""From rows to summaries: means over units with their intervals, paired differences, verdicts.

The unit is a document, a text or an item, never a token: the tokens of one text are not independent of each other.
Rows of one unit under several seeds or builds are averaged first. Nothing here opens a model.
"""

import json
import re
from dataclasses import dataclass, field, replace
from math import isfinite, nan

import numpy as np

from ..intervals import LEVEL, MIN_TESTED, Interval, holm, intervals, p_value
from ..kinds import KINDS, Figure, Kind, text_of
from .seeds import spread

DEFAULT = "capkv"  #: the series that the others are compared with
#: texts on which the ridge, the weight of the variance, the novelty and the size of the sample of the default policy were chosen
TUNED_ON = ("essays", "python-docs")
EQUAL_BYTES = 0.05  #: caches whose sizes differ by at most this share are compared as caches of equal bytes
FLOORS = 2  #: tables mark losses below so many times the floor of rounding


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
    def is_base(self) -> bool:
        """Whether it is the base of the kind's figures, read otherwise, so that what it loses is rounding."""
        return self.kind.base_is_full and self.setup.partition(",")[0] == "full"

    @property
    def is_rival(self) -> bool:
        """Whether its choice of what to hold answers alone: pins and an oracle were told what to keep, and recall reads text again."""
        return "+" not in self.setup

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


def judge(difference: Interval, better: int, nothing: float = 0) -> str:
    """wins, ties or loses: on which side of `nothing` the interval lies; "too few" (units), or "no figure" (one is no number)."""
    if difference.n < MIN_TESTED:
        return "too few"
    if not difference.known:
        return "no figure"
    if difference.lo <= nothing <= difference.hi:
        return "ties"
    return "wins" if (difference.lo > nothing) == (better > 0) else "loses"


def stands(verdict: str, p_holm: float) -> bool:
    """Whether a win or a loss is one also after the correction for the number of tests."""
    return verdict in ("wins", "loses") and p_holm < 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """A setup against another one over the same units, in one group: a cell. The verdict is about `own`."""

    own: Summary
    other: Summary
    figure: str
    equal: str  #: what both have equal: "budget", "bytes", or "" where the other is the full cache
    units: tuple  #: what both have measured, sorted
    pairs: np.ndarray = field(repr=False)  #: own figure and the other's of each unit: [n_units, 2]
    difference: Interval  #: own figure minus the other's
    on_floor: bool = False  #: both sides, or the full cache, are no better than the figure's floor
    p: float = nan  #: that the difference is 0, by Student's paired t test
    p_holm: float = nan  #: the same, corrected for all comparisons of the figure

    @property
    def verdict(self) -> str:
        """As judge() gives it, or "floor" in place of wins, ties and loses."""
        found = judge(self.difference, figure_of(self.own.kind, self.figure).better)
        return "floor" if self.on_floor and found in ("wins", "ties", "loses") else found

    @property
    def stands(self) -> bool:
        """Whether it wins or loses also after Holm's correction."""
        return stands(self.verdict, self.p_holm)

    @property
    def is_held_out(self) -> bool:
        """Whether no option of the default policy was chosen on its texts."""
        return not any(self.own.group[name] in TUNED_ON for name in self.own.kind.source)

    @property
    def ways(self) -> tuple:
        """All that both have equal: "budget", "bytes" or both of them; ("",) where the other is the full cache."""
        return (self.equal, "bytes") if self.equal == "budget" and are_equal_bytes(self.own, self.other) else (self.equal,)


def figure_of(kind: Kind, name: str) -> Figure:
    """The Figure of a kind by its name."""
    return next(figure for figure in kind.figures if figure.name == name)


def n_text(found: list[Summary]) -> str:
    """How many documents, texts or items the summaries are of: "8", or "6 to 8" where they differ."""
    least, most = min(one.n for one in found), max(one.n for one in found)
    return f"{most}" if least == most else f"{least} to {most}"


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


def floor_of(one: Summary, figure: Figure) -> float | None:
    """What a figure has to be better than to tell anything, in the summary's group; None where it has no floor."""
    guess = one.figures.get(figure.floor_from)
    return guess.mean if guess and isfinite(guess.mean) else figure.floor


def _is_floor(figure: Figure, mean: float, floor: float | None) -> bool:
    return floor is not None and figure.better * (mean - floor) <= 1e-9


def compare(own: Summary, other: Summary, figure: str, equal: str = "", full: Summary | None = None) -> Comparison:
    """The paired difference over the units (and seeds) that both have. full: the full cache, whose own score may be no better than
    the floor."""
    column = list(own.figures).index(figure)
    common = [key for key in own.values if key in other.values]
    units = tuple(sorted({key[0] for key in common}, key=str))
    pairs = np.stack([_by_unit(one.values, common)[:, column] for one in (own, other)], axis=1) if common else np.zeros((0, 2))
    differences = pairs[:, 0] - pairs[:, 1]
    spec, difference = figure_of(own.kind, figure), intervals(differences[:, None])[0]
    floor = floor_of(own, spec)
    on_floors = [_is_floor(spec, float(mean), floor) for mean in pairs.mean(axis=0)] if common else [False]
    on_floor = all(on_floors) or (full is not None and _is_floor(spec, full.figures[figure].mean, floor))
    p = p_value(differences) if difference.known and not on_floor else nan
    return Comparison(own, other, figure, equal, units, pairs, difference, on_floor, p)


def are_equal_bytes(own: Summary, other: Summary) -> bool:
    """Whether both hold the same bytes, within EQUAL_BYTES."""
    sizes = sorted((own.bytes_total, other.bytes_total))
    return sizes[0] > 0 and sizes[1] / sizes[0] <= 1 + EQUAL_BYTES


def _equal(own: Summary, other: Summary) -> str | None:
    """What makes two setups comparable (as Comparison.equal); None where nothing does."""
    if other.is_full:
        return None if own.kind.base_is_full else ""
    if other.is_base or not other.is_rival:
        return None
    if other.series == own.series:
        return None
    if other.policy is not None and other.budget == own.budget and other.type_k == own.type_k:
        return "budget"
    return "bytes" if are_equal_bytes(own, other) else None


def is_default(series: str, default: str) -> bool:
    """Whether a series is the default policy, in cells of any type, without other options."""
    return series == default or (series.startswith(f"{default}:") and not set(series) & set(",+"))


def comparisons(found: list[Summary], default: str = DEFAULT, figure: str | None = None) -> list[Comparison]:
    """The default policy at each budget against all setups of the same group with an equal budget or equal bytes.

    Two setups that are both of the default policy, in different types, are compared once.
    figure: a name; None is the first figure of the kind that gets verdicts.
    """
    out, full = [], {one.place: one for one in found if one.is_full and not one.kind.base_is_full}
    for own in found:
        if not is_default(own.series, default):
            continue
        for other in found:
            again = is_default(other.series, default) and other.series < own.series
            equal = _equal(own, other) if other.place == own.place and not again else None
            if equal is not None:
                out.append(compare(own, other, figure or own.kind.judged[0].name, equal, full.get(own.place)))
    return [replace(one, p_holm=p) for one, p in zip(out, holm([one.p for one in out]))]


def all_comparisons(found: list[Summary], default: str = DEFAULT) -> list[list[Comparison]]:
    """comparisons() of each figure that gets verdicts, one list for each; of a figure that is optional, where it is known."""
    out = []
    for figure in found[0].kind.judged if found else ():
        known = [one for one in found if not figure.optional or one.has(figure.name)]
        out.append(comparisons(known, default, figure.name))
    return [paired for paired in out if paired]


# ---------------------------------------------------------------------------------------------------------------------
# the floor of rounding


def floors(found: list[Summary]) -> dict:
    """{place: what rounding loses there}, of the groups where it was measured: the Summary of the first of the kind's `noise`, and
    of several readings of it, like "full,batch=256" and "full,threads=1", the one that loses most."""
    ranks: dict = {}
    for one in found:
        name = one.setup.partition(",")[0]
        figure = one.kind.figures[0]
        if name in one.kind.noise and one.has(figure.name):
            rank = (-one.kind.noise.index(name), -figure.better * one.figures[figure.name].mean)
            ranks.setdefault(one.place, []).append((rank, one))
    return {place: max(ranked, key=lambda pair: pair[0])[1] for place, ranked in ranks.items()}


def is_near_floor(one: Summary, floor: Summary | None, figure: Figure) -> bool:
    """Whether less than FLOORS times the floor was lost, so that rounding may be most of it; of the kind's first figure alone."""
    if floor is None or one.setup == floor.setup or figure is not one.kind.figures[0]:
        return False
    return one.figures[figure.name].mean < FLOORS * floor.figures[figure.name].mean
