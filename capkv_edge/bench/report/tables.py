"""The tables of each kind of rows, declared once: Markdown, the page and docs/results.md show the same columns.

Names are llama.cpp's where they mean the same: those of llama-bench for speed, those of llama-perplexity for fidelity.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, isfinite, log10

from .bootstrap import Interval
from .summary import DEFAULT, KINDS, Cell, Comparison, all_comparisons, cells, series_of, text_of

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    name: str
    value: Callable  #: of a Cell, a Comparison or a row: its text
    right: bool = True
    wanted: Callable = lambda things: True  #: of all of them: is the column worth showing?


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    columns: list  #: (name, right aligned)
    lines: list  #: lists of texts, one for each column
    series: list = field(default_factory=list)  #: of each line: what may be hidden together
    about: str = ""  #: what the reader has to know of its figures


# ---------------------------------------------------------------------------------------------------------------------
# figures as texts


def plain(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    return f"{value:.{_decimals(value, digits)}f}" if isfinite(value) else NOTHING


def _decimals(value: float, digits: int) -> int:
    return min(max(digits - 1 - floor(log10(abs(value))), 0), 7) if value else 0


def interval(found: Interval, scale: float = 1, sign: bool = False, decimals: int | None = None) -> str:
    """The mean and its interval, 0.123 [0.110, 0.140]: as many decimals as two digits of its half width have."""
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
# columns


def _figure(name: str, **how) -> Callable:
    return lambda cell: interval(cell.figures[name], **how)


def _is_known(found: Interval) -> bool:
    return isfinite(found.mean)


def _group(name: str) -> Callable:
    return lambda cell: NOTHING if cell.group[name] is None else text_of(cell.group[name])


def _differ(name: str) -> Callable:
    return lambda things: len({text_of((thing if isinstance(thing, dict) else thing.group).get(name)) for thing in things}) > 1


def _has(name: str) -> Callable:
    return lambda rows: any(row.get(name) is not None for row in rows)


def model_of(thing) -> str:
    return f"{thing.model} ({thing.model_hash[:8]})"


MODEL = Column("model", model_of, False, lambda cells: len({model_of(cell) for cell in cells}) > 1)
NUMBERS = ("n_ctx", "length", "n_turns", "stride", "share")


def _places(kind: str) -> list[Column]:
    """The columns that say which group a cell is of."""
    out = [MODEL]
    for name in KINDS[kind].fields:
        wanted = {} if name in KINDS[kind].group else dict(wanted=_differ(name))
        out.append(Column(name, _group(name), name in NUMBERS, **wanted))
    return out


HELD = [
    Column("setup", lambda cell: cell.setup, False),
    Column("KV MiB", lambda cell: mib(cell.bytes_total)),
    Column("of f16", lambda cell: percent(cell.share)),
]
SCORE = Column("score, %", _figure("score", scale=100, decimals=1))
CELLS = {
    "fidelity": [
        *_places("fidelity"),
        *HELD,
        Column("docs", lambda cell: str(cell.n)),
        Column("KLD", _figure("kl_mean")),
        Column("median", _figure("kl_median")),
        Column("99%", _figure("kl_p99")),
        Column("Δ log p", _figure("dloglik", sign=True)),
        Column("same top p, %", _figure("same_top", scale=100, decimals=1)),
        Column("RMS Δp, %", _figure("rms_dp", scale=100)),
    ],
    "retrieval": [
        *_places("retrieval"),
        *HELD,
        Column("texts", lambda cell: str(cell.n)),
        Column("questions", lambda cell: str(cell.n_items)),
        SCORE,
        Column("NLL", _figure("nll"), True, lambda cells: any(_is_known(cell.figures["nll"]) for cell in cells)),
    ],
    "longbench": [*_places("longbench"), *HELD, Column("items", lambda cell: str(cell.n)), SCORE],
}
SPEED = [
    Column("model", lambda row: row.get("model_type") or row.get("model") or NOTHING, False),
    Column("size", lambda row: mib(row.get("model_size")) + " MiB", True, _has("model_size")),
    Column("params", lambda row: plain(row.get("model_n_params", 0) / 1e6) + " M", True, _has("model_n_params")),
    Column("backend", lambda row: _listed(row.get("backends")), False),
    Column("threads", lambda row: text_of(row.get("n_threads"))),
    Column("n_batch", lambda row: text_of(row.get("n_batch")), True, _differ("n_batch")),
    Column("n_ubatch", lambda row: text_of(row.get("n_ubatch")), True, _differ("n_ubatch")),
    Column("type_k", lambda row: text_of(row.get("type_k")), True, _differ("type_k")),
    Column("type_v", lambda row: text_of(row.get("type_v")), True, _differ("type_v")),
    Column("policy", lambda row: row.get("policy") or "full", False),
    Column("budget", lambda row: NOTHING if row.get("budget") is None else str(row["budget"])),
    Column("KV MiB", lambda row: mib(row.get("bytes_total"))),
    Column("evict %", lambda row: _of(row, "evict_share", 100, ".1f")),
    Column("ms/evict", lambda row: _of(row, "evict_ms", 1, ".1f")),
    Column("test", lambda row: text_of(row.get("test"))),
    Column("t/s", lambda row: _rate(row)),
]
_SHOWN = dict(kl_mean=("KLD", {}), nll=("NLL", {}), score=("score, %", dict(scale=100, decimals=1)))  # the figures that verdicts are about


def against(comparison: Comparison) -> str:
    how = {"budget": "equal budget", "bytes": "equal bytes"}
    return how.get(comparison.equal, "full cache")


def _difference(comparison: Comparison) -> str:
    return interval(comparison.difference, sign=True, **_SHOWN.get(comparison.figure, ("", {}))[1])


VERDICTS = [
    Column("setup", lambda c: c.cell.setup, False),
    Column("against", lambda c: c.other.setup, False),
    Column("at", against, False),
    Column("units", lambda c: str(c.difference.n)),
    Column("difference", _difference),
    Column("verdict", lambda c: c.verdict, False),
]


def _rate(row: dict) -> str:
    if row.get("avg_ts") is None:
        return "over the limit" if row.get("over_limit") else "failed"
    return f"{row['avg_ts']:.2f} ± {row.get('stddev_ts') or 0:.2f}"


def _of(row: dict, name: str, scale: float, form: str) -> str:
    value = row.get(name)
    if not isinstance(value, (int, float)) or (name == "evict_ms" and not row.get("n_evictions")):
        return NOTHING
    return f"{value * scale:{form}}"


def _listed(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else text_of(value)


# ---------------------------------------------------------------------------------------------------------------------
# tables

ABOUT = {
    "fidelity": "Mean over documents and its 95 % interval, against the logits of the full f16 cache. KLD: divergence from it, "
    "in nats; median and 99% are within a document. Δ log p: nats per token, negative is worse than the full cache.",
    "retrieval": "Mean over texts and its 95 % interval. blind: what was evicted was evicted before the question was known. "
    "NLL: of the expected answer, nats per token, where there is one; less is better.",
    "longbench": "Mean over items and its 95 % interval.",
    "speed": "KV MiB: all that the cache holds. evict %: share of the time that evictions took.",
}
TITLES = {
    "fidelity": "Fidelity to the full cache",
    "retrieval": "Retrieval",
    "longbench": "Long documents",
    "speed": "Speed",
}


def _fill(columns: list, things: list) -> tuple[list, list]:
    columns = [column for column in columns if column.wanted(things)]
    return [(c.name, c.right) for c in columns], [[c.value(thing) for c in columns] for thing in things]


def cells_table(found: list[Cell], kind: str) -> Table:
    head, lines = _fill(CELLS[kind], found)
    return Table(kind, TITLES[kind], head, lines, [cell.series for cell in found], ABOUT[kind])


def verdicts_table(found: list[Comparison], kind: str, default: str = DEFAULT) -> Table:
    groups = [c for c in _places(kind) if c.wanted([one.cell for one in found])]
    groups = [Column(c.name, (lambda one, c=c: c.value(one.cell)), c.right) for c in groups]
    head, lines = _fill(groups + VERDICTS, found)
    name = _SHOWN.get(found[0].figure, (found[0].figure,))[0]
    about = f"Difference in {name} over the same units, {default} minus the other, and its 95 % interval; a tie is an interval "
    about += "with zero in it. Of setups that are truly equal, about one in twenty shows as a win or a loss by chance."
    figure, more = found[0].figure, found[0].figure != KINDS[kind].main
    title = f"{TITLES[kind]}{f', {name}' if more else ''}: {default} against"
    return Table(f"{kind}-verdicts{f'-{figure}' if more else ''}", title, head, lines, [c.other.series for c in found], about)


def speed_table(rows: list[dict]) -> Table:
    head, lines = _fill(SPEED, rows)
    return Table("speed", TITLES["speed"], head, lines, [series_of(row["setup"]) for row in rows], ABOUT["speed"])


def rounds_merged(rows: list[dict]) -> list[dict]:
    """Rows of speed, one for each test: those of its rounds as one, setups without a headroom that tells nothing apart."""
    found = [row for row in rows if row.get("kind") == "speed"]
    if any("round" in row for row in found):
        from ..measure.speed import summary

        found = summary(found)
    short: dict = {}
    for row in found:
        short.setdefault(re.sub(r",headroom=\d+", "", row["setup"]), set()).add(row["setup"])
    names = {full: name for name, same in short.items() for full in same if len(same) == 1}
    return [row | dict(setup=names.get(row["setup"], row["setup"])) for row in found]


def tables(rows: list[dict], default: str = DEFAULT) -> list[Table]:
    """All tables that the rows give, in the order of reading."""
    out = []
    for kind in CELLS:
        found = cells(rows, kind)
        if found:
            out.append(cells_table(found, kind))
            out += [verdicts_table(paired, kind, default) for paired in all_comparisons(found, default)]
    speed = rounds_merged(rows)
    return out + ([speed_table(speed)] if speed else [])
