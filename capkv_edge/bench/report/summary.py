"""From rows to cells: means over documents or texts with their intervals, paired differences, verdicts.

The unit is a document (fidelity), a text (retrieval) or an item (longbench), never a token: tokens of one text are not
independent. Rows of the same unit under several seeds or builds are averaged first. Nothing here opens a model.
"""

import json
import re
from dataclasses import dataclass, field
from math import nan

import numpy as np

from .bootstrap import MIN_UNITS, Interval, intervals

DEFAULT = "capkv"  #: the series that the others are compared with
EQUAL_BYTES = 0.05  #: caches whose sizes differ by no more than this share count as of equal bytes


@dataclass(frozen=True)
class Kind:
    group: tuple  #: fields that a cell shares with those it is compared with, beside the model; all tables show them
    also: tuple  #: more of those, which tables show where they differ
    unit: str  #: the field that names what is resampled
    figures: dict  #: figure -> 1 where more is better, -1 where less is
    main: str  #: the figure that verdicts are about
    pair: tuple = ("seed",)  #: what else has to be equal in a pair of rows
    more: tuple = ()  #: further figures with verdicts, where rows have them

    @property
    def fields(self) -> tuple:
        return self.group + self.also


KINDS = {
    "fidelity": Kind(
        ("corpus", "n_ctx"),
        ("stride",),
        "doc",
        dict(kl_mean=-1, kl_median=-1, kl_p99=-1, dloglik=1, same_top=1, rms_dp=-1),
        "kl_mean",
        ("doc_hash", "seed"),
    ),
    "retrieval": Kind(
        ("task", "haystack", "length", "mode"),
        ("n_turns", "share", "depths", "wording"),
        "text",
        dict(score=1, nll=-1),
        "score",
        more=("nll",),
    ),
    "longbench": Kind(("dataset", "metric", "mode"), ("n_ctx", "prompts"), "item", dict(score=1), "score"),
}


@dataclass(frozen=True)
class Cell:
    """All rows of one setup in one group. `values` maps (unit, seed, ...) to one array of figures per build."""

    kind: str
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
    figures: dict = field(repr=False)  #: figure -> Interval

    @property
    def n(self) -> int:
        """Units."""
        return len({key[0] for key in self.values})

    @property
    def series(self) -> str:
        """The setup without its budget: the points of one line in a plot."""
        return series_of(self.setup)

    @property
    def share(self) -> float:
        """Bytes held as a share of the full f16 cache."""
        return self.bytes_total / self.bytes_full if self.bytes_full else nan

    @property
    def where(self) -> str:
        """Its group in words, without the fields that tables show only where they differ."""
        group = self.group
        if self.kind == "fidelity":
            return f"{group['corpus']}, {group['n_ctx']} tokens"
        if self.kind == "retrieval":
            length = f"{group['length']} {'turns' if group['n_turns'] else 'tokens'}"
            return f"{group['task']} in {group['haystack']}, {length}, {group['mode']}"
        return ", ".join(text_of(group[name]) for name in KINDS[self.kind].group)

    @property
    def place(self) -> tuple:
        """What tells its group from others; sortable."""
        return (self.model, self.model_hash, *(_sortable(value) for value in self.group.values()))


@dataclass(frozen=True)
class Comparison:
    """A setup against another one over the same units. The verdict is the setup's, on the figure of the kind."""

    cell: Cell
    other: Cell
    figure: str
    equal: str  #: "budget", "bytes" or "" (against the full cache)
    difference: Interval  #: the setup's figure minus the other's

    @property
    def verdict(self) -> str:
        """wins, ties, loses; or "too few", where there are not enough units in common for an interval."""
        d = self.difference
        if not d.known:
            return "too few" if d.n < MIN_UNITS else "no figure"
        if d.lo <= 0 <= d.hi:
            return "ties"
        return "wins" if (d.lo > 0) == (KINDS[self.cell.kind].figures[self.figure] > 0) else "loses"


def series_of(setup: str) -> str:
    """ "capkv@512:q8_0" -> "capkv:q8_0"."""
    return re.sub(r"@[^:,]*", "", setup, count=1)


def text_of(value) -> str:
    """A field's value as a word: for tables, and where it has to be hashable."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _sortable(value) -> tuple:
    return (0, value, "") if isinstance(value, (int, float)) else (1, 0, text_of(value))


def group_of(row: dict) -> tuple:
    """What a row's cell shares with those it is compared with."""
    return (str(row.get("model_hash", "")), *(text_of(row.get(name)) for name in KINDS[row["kind"]].fields))


def number(value) -> float:
    return float(value) if isinstance(value, (int, float)) else nan


def _mean(rows: list, name: str) -> float:
    return float(np.mean([number(row.get(name)) for row in rows]))


def _by_unit(values: dict, keys) -> np.ndarray:
    """Figures of each unit, averaged over what else is in the keys and over builds: [n_units, n_figures]."""
    units = {}
    for key in keys:
        units.setdefault(key[0], []).append(np.mean(list(values[key].values()), axis=0))
    return np.array([np.mean(found, axis=0) for _, found in sorted(units.items(), key=lambda item: str(item[0]))])


def _order(cell: Cell) -> tuple:
    """The full cache first, quantized ones next, then the default policy, then the others by name; budgets ascending."""
    rank = 0 if cell.policy is None else 1 if cell.series == DEFAULT else 2
    return (cell.place, rank, -cell.share if rank == 0 else 0, cell.series, cell.budget or 0, cell.setup)


def cells(rows: list[dict], kind: str) -> list[Cell]:
    """The cells of one kind, sorted. Rows of different models (model_hash) never share one."""
    spec = KINDS[kind]
    found: dict = {}
    for row in rows:
        if row.get("kind") == kind:
            found.setdefault((*group_of(row), row["setup"]), []).append(row)
    out = []
    for members in found.values():
        values: dict = {}
        for row in members:  # of two rows alike in all of this the later one counts
            key = (row[spec.unit], *(text_of(row.get(name)) for name in spec.pair))
            values.setdefault(key, {})[build_of(row)] = np.array([number(row.get(name)) for name in spec.figures])
        row = members[-1]
        out.append(
            Cell(
                kind=kind,
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
                figures=dict(zip(spec.figures, intervals(_by_unit(values, values)))),
            )
        )
    return sorted(out, key=_order)


def build_of(row: dict) -> str:
    return json.dumps(
        [row.get(name) for name in ("commit", "lib", "build", "pin", "n_batch", "n_threads", "device")], sort_keys=True
    )


def compare(cell: Cell, other: Cell, figure: str | None = None, equal: str = "") -> Comparison:
    """The paired difference over the units (and seeds) that both cells have."""
    spec = KINDS[cell.kind]
    figure = figure or spec.main
    column = list(spec.figures).index(figure)
    common = [key for key in cell.values if key in other.values]
    if common:
        pairs = _by_unit(cell.values, common)[:, column] - _by_unit(other.values, common)[:, column]
    else:
        pairs = np.zeros(0)
    return Comparison(cell, other, figure, equal, intervals(pairs[:, None])[0])


def _equal(cell: Cell, other: Cell) -> str | None:
    """What makes two setups comparable; None where nothing does."""
    if other.policy is None and other.type_k == "f16":
        return "" if cell.kind != "fidelity" else None  # fidelity is measured against the full cache already
    if other.series == cell.series:
        return None
    if other.policy is not None and other.budget == cell.budget and other.type_k == cell.type_k:
        return "budget"
    sizes = sorted((cell.bytes_total, other.bytes_total))
    if sizes[0] > 0 and sizes[1] / sizes[0] <= 1 + EQUAL_BYTES:
        return "bytes"
    return None


def all_comparisons(found: list[Cell], default: str = DEFAULT) -> list[list[Comparison]]:
    """comparisons() of each figure of the kind that has verdicts, the main one first."""
    out = []
    for figure in (KINDS[found[0].kind].main, *KINDS[found[0].kind].more) if found else ():
        known = [cell for cell in found if not out or cell.figures[figure].mean == cell.figures[figure].mean]
        out.append(comparisons(known, default, figure))
    return [paired for paired in out if paired]


def comparisons(found: list[Cell], default: str = DEFAULT, figure: str | None = None) -> list[Comparison]:
    """The default policy at each budget against all setups of the same group with as large a budget or as many bytes."""
    out = []
    for cell in found:
        if cell.series.partition(":")[0] == default:
            for other in found:
                equal = _equal(cell, other) if other.place == cell.place else None
                if equal is not None:
                    out.append(compare(cell, other, figure, equal))
    return out
