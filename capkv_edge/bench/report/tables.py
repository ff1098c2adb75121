"""The tables that the terminal and the page show, made from the records in kinds.py.

Names of columns are llama.cpp's where they mean the same: those of llama-bench for speed, of llama-perplexity for fidelity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, isfinite, log10

from .. import kinds
from ..intervals import Interval
from ..kinds import Figure, Kind, text_of
from .rounds import tests
from .summary import DEFAULT, Comparison, Summary, all_comparisons, figure_of, series_of, summaries

NOTHING = "-"


@dataclass(frozen=True)
class Table:
    title: str
    columns: list  #: (name, right aligned)
    lines: list  #: lists of texts, one for each column
    series: list = field(default_factory=list)  #: of each line: what may be hidden together
    about: str = ""  #: what the columns mean


@dataclass(frozen=True)
class _Column:
    name: str
    value: Callable  #: (Summary, Comparison or row) -> text
    right: bool = True


# ---------------------------------------------------------------------------------------------------------------------
# figures as texts


def plain(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    return f"{value:.{_decimals(value, digits)}f}" if isfinite(value) else NOTHING


def _decimals(value: float, digits: int) -> int:
    return min(max(digits - 1 - floor(log10(abs(value))), 0), 7) if value else 0


def interval(found: Interval, scale: float = 1, sign: bool = False, decimals: int | None = None) -> str:
    """The mean and its interval, as in 0.123 [0.110, 0.140]; decimals None: two digits of the interval's half width."""
    mean, half = found.mean * scale, (found.hi - found.lo) / 2 * scale
    if not isfinite(mean):
        return NOTHING
    if decimals is None:
        decimals = _decimals(half, 2) if found.known and half else _decimals(mean, 3)
    form = f"{'+' if sign else ''}.{decimals}f"
    bounds = f" [{found.lo * scale:{form}}, {found.hi * scale:{form}}]" if found.known and half else ""
    return f"{mean:{form}}{bounds}"


def mib(value) -> str:
    return plain(value / 2**20) if isinstance(value, (int, float)) else NOTHING


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if isfinite(value) else NOTHING


# ---------------------------------------------------------------------------------------------------------------------
# columns of summaries and comparisons


def _figure_columns(kind: Kind, found: list[Summary]) -> list[_Column]:
    def column(figure: Figure) -> _Column:
        how = dict(scale=figure.scale, sign=figure.sign, decimals=figure.decimals)
        return _Column(figure.label, lambda one: interval(one.figures[figure.name], **how))

    known = [figure for figure in kind.figures if not figure.optional or any(one.has(figure.name) for one in found)]
    return [column(figure) for figure in known]


def model_of(one: Summary) -> str:
    return f"{one.model} ({one.model_hash[:8]})"


def _group_columns(kind: Kind, found: list[Summary]) -> list[_Column]:
    """The columns that say which group a summary is of: the model and the fields in `group_more` where they differ."""
    out = [_Column("model", model_of, False)] if len({model_of(one) for one in found}) > 1 else []
    for name in kind.fields:
        values = [one.group[name] for one in found]
        if name in kind.group or len(set(map(text_of, values))) > 1:
            right = all(value is None or isinstance(value, (int, float)) for value in values)
            out.append(_Column(name, lambda one, name=name: _text(one.group[name]), right))
    return out


def _text(value, missing: str = NOTHING) -> str:
    return missing if value is None else ",".join(map(str, value)) if isinstance(value, list) else text_of(value)


def _summary_columns(kind: Kind, found: list[Summary]) -> list[_Column]:
    asked = [_Column("questions", lambda one: str(one.n_items))] if any(one.n_items for one in found) else []
    return [
        *_group_columns(kind, found),
        _Column("setup", lambda one: one.setup, False),
        _Column("KV MiB", lambda one: mib(one.bytes_total)),
        _Column("of f16", lambda one: percent(one.share)),
        _Column(f"{kind.unit}s", lambda one: str(one.n)),
        *asked,
        *_figure_columns(kind, found),
        *([_Column("sd over seeds", seeds_text)] if any(one.seeds[1] is not None for one in found) else []),
    ]


def seeds_text(one: Summary) -> str:
    """Standard deviation of the mean of the first figure over the seeds of the sample, as in 0.0012 (3)."""
    n, deviation = one.seeds
    return NOTHING if deviation is None else f"{plain(deviation * one.kind.judged[0].scale, 2)} ({n})"


def _against(comparison: Comparison) -> str:
    return {"budget": "equal budget", "bytes": "equal bytes"}.get(comparison.equal, "full cache")


def _comparison_columns(kind: Kind, found: list[Comparison]) -> list[_Column]:
    figure = figure_of(kind, found[0].figure)
    how = dict(scale=figure.scale, sign=True, decimals=figure.decimals)
    groups = _group_columns(kind, [one.own for one in found])
    return [
        *(_Column(c.name, lambda one, c=c: c.value(one.own), c.right) for c in groups),
        _Column("setup", lambda one: one.own.setup, False),
        _Column("against", lambda one: one.other.setup, False),
        _Column("at", _against, False),
        _Column("units", lambda one: str(one.difference.n)),
        _Column("difference", lambda one: interval(one.difference, **how)),
        _Column("verdict", lambda one: one.verdict, False),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# columns of tests


def _rate(row: dict, name: str) -> str:
    if row.get(name) is None:
        return "over the limit" if row.get("over_limit") else "failed"
    return f"{row[name]:.2f} ± {row.get('stddev_ts') or 0:.2f}"


def _scaled(row: dict, name: str, scale: float) -> str:
    return f"{row[name] * scale:.1f}" if isinstance(row.get(name), (int, float)) else NOTHING


#: the forms of a kinds.Column: (row, field) -> text
_FORMS = {
    "MiB": lambda row, name: mib(row.get(name)),
    "percent": lambda row, name: _scaled(row, name, 100),
    "number": lambda row, name: _scaled(row, name, 1),
    "rate": _rate,
    "interval": lambda row, name: interval(row[name], decimals=2) if row.get(name) else NOTHING,
}


def _test_columns(kind: Kind, rows: list[dict]) -> list[_Column]:
    def value(column: kinds.Column, row: dict) -> str:
        if column.needs and not row.get(column.needs):
            return column.missing
        if column.form == "text":
            return _text(row.get(column.field), column.missing)
        return _FORMS[column.form](row, column.field)

    shown = [c for c in kind.columns if not c.differs or len({text_of(row.get(c.field)) for row in rows}) > 1]
    shown = [c for c in shown if not c.optional or any(row.get(c.field) is not None for row in rows)]
    return [_Column(c.label, lambda row, c=c: value(c, row), c.right) for c in shown]


# ---------------------------------------------------------------------------------------------------------------------
# tables


def _table(title: str, columns: list[_Column], things: list, series: list, about: str) -> Table:
    lines = [[column.value(thing) for column in columns] for thing in things]
    return Table(title, [(column.name, column.right) for column in columns], lines, series, about)


def _verdicts_table(kind: Kind, found: list[Comparison], default: str) -> Table:
    figure = figure_of(kind, found[0].figure)
    about = f"Difference in {figure.label} over the same units, {default} minus the other, and its 95 % interval; a tie is an "
    about += "interval that contains zero. Of setups that are truly equal, about one in twenty shows as a win or a loss by chance."
    which = "" if figure == kind.judged[0] else f", {figure.label}"
    title = f"{kind.title}{which}: {default} against"
    return _table(title, _comparison_columns(kind, found), found, [one.other.series for one in found], about)


def tables(rows: list[dict], default: str = DEFAULT) -> list[Table]:
    """All tables that the rows give, in the order of reading."""
    out = []
    for kind in kinds.KINDS.values():
        found = summaries(rows, kind.name) if kind.unit else tests(rows, kind.name)
        if not found:
            continue
        columns = _summary_columns(kind, found) if kind.unit else _test_columns(kind, found)
        series = [one.series if kind.unit else series_of(one["setup"]) for one in found]
        out.append(_table(kind.title, columns, found, series, kind.about))
        if kind.unit:
            out += [_verdicts_table(kind, paired, default) for paired in all_comparisons(found, default)]
    return out
