"""The tables that the terminal and the page show, made from the records in kinds.py.

Names of columns are llama.cpp's where they mean the same: those of llama-bench for speed, of llama-perplexity for fidelity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, isfinite, log10

from .. import kinds
from ..intervals import LEVEL, MIN_TESTED, Interval
from ..kinds import Figure, Kind, text_of
from .pooled import Pooled, pool
from .rounds import tests
from .summary import (
    DEFAULT,
    FLOORS,
    Comparison,
    Summary,
    all_comparisons,
    figure_of,
    floors,
    is_near_floor,
    series_of,
    summaries,
)

NOTHING = "-"
HELD_OUT = "held out"
MARK = "†"  #: behind a loss that is near the floor of rounding


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
    value: Callable  #: (Summary, Comparison, Pooled or row) -> text
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


def p_text(p: float) -> str:
    """A p value with two significant digits."""
    return NOTHING if not isfinite(p) else "<0.0001" if p < 0.0001 else plain(p, 2)


def counted(found: list, stand: bool = False) -> str:
    """Wins, ties and losses among comparisons; stand: only wins and losses that are ones after Holm's correction, others are ties."""
    verdicts = [one.verdict if one.stands or not stand or one.verdict not in ("wins", "loses") else "ties" for one in found]
    return ", ".join(str(verdicts.count(verdict)) for verdict in ("wins", "ties", "loses"))


# ---------------------------------------------------------------------------------------------------------------------
# columns of summaries and comparisons


def _figure_columns(kind: Kind, found: list[Summary]) -> list[_Column]:
    floor = floors(found)

    def column(figure: Figure) -> _Column:
        how = dict(scale=figure.scale, sign=figure.sign, decimals=figure.decimals)

        def text(one: Summary) -> str:
            mark = f" {MARK}" if is_near_floor(one, floor.get(one.place), figure) else ""
            return interval(one.figures[figure.name], **how) + mark

        return _Column(figure.label, text)

    known = [figure for figure in kind.figures if not figure.optional or any(one.has(figure.name) for one in found)]
    return [column(figure) for figure in known]


def model_of(one: Summary) -> str:
    return f"{one.model} ({one.model_hash[:8]})"


def _model_columns(found: list[Summary]) -> list[_Column]:
    return [_Column("model", model_of, False)] if len({model_of(one) for one in found}) > 1 else []


def _group_columns(kind: Kind, found: list[Summary]) -> list[_Column]:
    """The columns that say which group a summary is of: the model and the fields in `group_more` where they differ."""
    out = _model_columns(found)
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


_AT = {("budget",): "equal budget", ("bytes",): "equal bytes", ("budget", "bytes"): "equal budget and bytes", ("",): "full cache"}


def _verdict(one, kind: Kind) -> str:
    return f"too few {kind.units}" if one.verdict == "too few" else one.verdict


def _comparison_columns(kind: Kind, found: list[Comparison]) -> list[_Column]:
    figure = figure_of(kind, found[0].figure)
    how = dict(scale=figure.scale, sign=True, decimals=figure.decimals)
    groups = _group_columns(kind, [one.own for one in found])
    return [
        *(_Column(c.name, lambda one, c=c: c.value(one.own), c.right) for c in groups),
        _Column("setup", lambda one: one.own.setup, False),
        _Column("against", lambda one: one.other.setup, False),
        _Column("at", lambda one: _AT[one.ways], False),
        _Column("units", lambda one: str(one.difference.n)),
        _Column("difference", lambda one: interval(one.difference, **how)),
        _Column("p", lambda one: p_text(one.p)),
        _Column("p, Holm", lambda one: p_text(one.p_holm)),
        _Column("verdict", lambda one: _verdict(one, kind), False),
    ]


def effect_text(one: Pooled) -> str:
    """A ratio as 0.86 [0.80, 0.92], or a difference in the figure's unit with its sign."""
    figure = one.figure
    if figure.relative:
        return interval(one.effect)
    return interval(one.effect, scale=figure.scale, sign=True, decimals=figure.decimals)


def _pooled_columns(kind: Kind, found: list[Pooled], quote: str) -> list[_Column]:
    figure = found[0].figure
    parts = [_Column("texts", lambda one: HELD_OUT if one.is_held_out else "all", False)] if any(p.is_held_out for p in found) else []
    models = _model_columns([one.cells[0].own for one in found])
    owns = [_Column("policy", lambda one: f"{quote}{one.own}{quote}", False)] if len({one.own for one in found}) > 1 else []
    return [
        *(_Column(c.name, lambda one, c=c: c.value(one.cells[0].own), c.right) for c in models),
        *owns,
        _Column("against", lambda one: f"{quote}{one.other}{quote}", False),
        _Column("at", lambda one: _AT[(one.equal,)], False),
        *parts,
        _Column(kind.units, lambda one: str(one.effect.n)),
        _Column("cells", lambda one: str(len(one.used))),
        _Column(f"{figure.label}, {'ratio' if figure.relative else 'difference'}", effect_text),
        _Column("p", lambda one: p_text(one.p)),
        _Column("p, Holm", lambda one: p_text(one.p_holm)),
        _Column("verdict", lambda one: _verdict(one, kind), False),
        _Column("cells won, tied, lost", lambda one: counted(one.cells)),
        _Column("after Holm", lambda one: counted(one.cells, stand=True)),
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


def floor_rule(figure: Figure) -> str:
    """In words, which cells get the verdict "floor"; empty where the figure has no floor."""
    if figure.floor is None:
        return ""
    least, more = f"{figure.floor * figure.scale:g}{' %' if figure.scale == 100 else ''}", "less" if figure.better > 0 else "more"
    least = f"the {figure.floor_from} (where rows have none, {least}) or {more}" if figure.floor_from else f"{least} or {more}"
    name = figure.label.removesuffix(", %")
    return f" floor: {name} is {least} on both sides, or with the full cache, which tells nothing of what was kept."


def _about_tests(kind: Kind, figure: Figure) -> str:
    n = MIN_TESTED - 1
    return (
        f"p: Student's paired t test over the {kind.units}; Holm: corrected for the number of lines. With fewer than {MIN_TESTED} "
        f"{kind.units} there is no verdict: the smallest two-sided p of {n} signs is {2 / 2**n:g}.{floor_rule(figure)}"
    )


def pooled_table(kind: Kind, found: list[Comparison], default: str = DEFAULT, quote: str = "") -> Table:
    """A line for each series that the default policy is compared with, over all groups and budgets. quote: around names."""
    pooled, figure = pool(found), figure_of(kind, found[0].figure)
    how = f"{figure.label} of {default} {'divided by' if figure.relative else 'minus'} that of the other, "
    how += f"{'geometric mean' if figure.relative else 'mean'} over the cells of each {kind.unit} and then over the {kind.units}"
    about = (
        f"{how}, with its {100 * LEVEL:.0f} % bootstrap interval; a tie is an interval that contains {1 if figure.relative else 0}. "
        f"{f'{HELD_OUT}: texts on which no option of {default} was chosen. ' if any(p.is_held_out for p in pooled) else ''}"
        f"A cell is one setup against another one in one group ({', '.join(kind.group)}). {_about_tests(kind, figure)} "
        f"{'' if figure.floor is None else 'Cells on the floor are not pooled. '}"
        "The last two columns count the verdicts of the cells alone, as they are and after Holm's correction for all cells."
    )
    title = f"{kind.title}{_which(kind, figure)}: {default} against each, all cells pooled by {kind.unit}"
    return _table(title, _pooled_columns(kind, pooled, quote), pooled, [one.other for one in pooled], about)


def _which(kind: Kind, figure: Figure) -> str:
    return "" if figure == kind.judged[0] else f", {figure.label}"


def _verdicts_table(kind: Kind, found: list[Comparison], default: str) -> Table:
    figure = figure_of(kind, found[0].figure)
    about = f"Difference in {figure.label} over the same units, {default} minus the other, and its 95 % interval; a tie is an "
    about += f"interval that contains zero. {_about_tests(kind, figure)}"
    title = f"{kind.title}{_which(kind, figure)}: {default} against"
    return _table(title, _comparison_columns(kind, found), found, [one.other.series for one in found], about)


def _about_floor(kind: Kind, found: list[Summary]) -> str:
    """What the mark means, and where no floor was measured; empty for a kind that has none."""
    if not kind.noise:
        return ""
    known = floors(found)
    names = " or ".join(dict.fromkeys(one.setup for one in known.values()))
    out = f" {MARK}: less than {FLOORS} times the floor of rounding, which is the loss of {names}." if names else ""
    missing = list(dict.fromkeys(one.where for one in found if one.place not in known))
    return out + (f" The floor of rounding was not measured for {'; '.join(missing)}." if missing else "")


def pooled_tables(rows: list[dict], kind: Kind, default: str = DEFAULT) -> list[Table]:
    """The pooled_table() of each figure of a kind that gets verdicts."""
    found = summaries(rows, kind.name) if kind.unit else []
    return [pooled_table(kind, paired, default) for paired in all_comparisons(found, default)]


def tables(rows: list[dict], default: str = DEFAULT, with_pooled: bool = True) -> list[Table]:
    """All tables that the rows give, in the order of reading; pooled ones lead those of their kind."""
    out = []
    for kind in kinds.KINDS.values():
        found = summaries(rows, kind.name) if kind.unit else tests(rows, kind.name)
        if not found:
            continue
        columns = _summary_columns(kind, found) if kind.unit else _test_columns(kind, found)
        series = [one.series if kind.unit else series_of(one["setup"]) for one in found]
        out += pooled_tables(rows, kind, default) if with_pooled else []
        out.append(_table(kind.title, columns, found, series, kind.about + (_about_floor(kind, found) if kind.unit else "")))
        if kind.unit:
            out += [_verdicts_table(kind, paired, default) for paired in all_comparisons(found, default)]
    return out
