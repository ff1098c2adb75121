"""The page of a quick run: one HTML file, which needs no other and loads nothing."""

from math import isfinite
from pathlib import Path

from ..intervals import MIN_UNITS
from ..kinds import FIDELITY
from ..report import page
from ..report.page import escaped
from ..report.summary import DEFAULT
from ..report.tables import tables
from . import words
from .advice import Advice
from .found import Cache, Found

STYLE = """.advice { border: 1px solid var(--line); border-left: 4px solid var(--win); background: var(--card); border-radius: 6px;
  padding: .8rem 1rem; margin: 1.4rem 0; }
.advice.none { border-left-color: var(--mark); }
.advice h2 { margin: 0 0 .5rem; }
.advice pre { margin: .5rem 0; padding: .6rem .8rem; border: 1px solid var(--line); border-radius: 4px; background: var(--back);
  overflow-x: auto; }
.advice ul { margin: .5rem 0 0; font-size: .92rem; }
.bar { display: block; height: .3rem; margin: .15rem 0 0 auto; border-radius: 2px; background: var(--soft); min-width: 1px; }
.bar.loss { background: var(--mark); }
td { vertical-align: top; }
tr.chosen td { background: var(--card); font-weight: 600; }
"""
LOSS = (
    ("cache", False),
    ("memory, MiB", True),
    ("% of full", True),
    ("loss, nats", True),
    ("x q8_0's", True),
    ("x q4_0's", True),
    ("than q4_0", False),
    ("same next token, %", True),
    ("documents", True),
)
SPEED = (
    ("cache, as capkv-chat has it", False),
    ("cells", True),
    ("memory, MiB", True),
    ("process, MiB", True),
    ("reads, tokens/s", True),
    ("x full", True),
    ("decodes, tokens/s", True),
    ("x full", True),
)


def render(found: Found, advice: Advice | None, model: str, command: str, notes: list) -> str:
    """The page. Everything in it that comes from rows and from the command line is escaped.

    Args:
        model: what the user calls the model.
        command: the command line that goes on with this run.
        notes: sentences on how far the run came.
    """
    device = str(found.rows[-1].get("device"))
    corpus = ", ".join(sorted({row["corpus"] for row in found.rows if "corpus" in row}))
    parts = [
        f"<h1>What a budget loses and gains: {escaped(model)}</h1>",
        f'<p class="soft">Measured on {escaped(device)} with {found.rows[-1].get("n_threads")} threads: {escaped(words.measured(found))}, '
        f"from {escaped(corpus)}. Nothing here is estimated.</p>",
        _advice(advice),
        f'<div class="warn"><p><strong>{page.EVICTION[0]}</strong></p><p>{page.EVICTION[1]}</p></div>',
        *_loss(found, advice),
        *_speed(found, advice),
        *_plots([row for row in found.rows if row["kind"] == FIDELITY.name]),
        f"<h2>How far it came</h2>\n{page.list_as_html(notes)}",
        page.what_was_run(found.rows, command),
        "<h2>All figures</h2>",
        *(page.table_as_html(table, "") for table in tables(found.rows)),
        page.caveats_as_html(found.rows),
    ]
    return page.document(f"capkv-bench quick: {model}", parts, STYLE)


def write(path: Path, text: str) -> None:
    """Write the page; its folder is there."""
    path.write_text(text, encoding="utf-8")


def _advice(advice: Advice | None) -> str:
    if advice is None:
        return '<div class="advice none"><h2>No recommendation yet</h2><p>Speed and memory are not measured so far.</p></div>'
    return (
        f'<div class="advice{"" if advice.is_budget else " none"}"><h2>{escaped(advice.headline)}</h2>\n'
        f"<pre><code>{escaped(advice.command)}</code></pre>\n{page.list_as_html([*advice.reasons, *advice.warnings])}</div>"
    )


def _loss(found: Found, advice: Advice | None) -> list:
    worst = max((one.kl.mean for one in found.caches if isfinite(one.kl.mean)), default=0)
    lines = []
    for one in found.caches:
        loss = ("0, the base", "") if one.is_base else (words.nats(one.kl), _bar(one.kl.mean, worst, "loss"))
        lines.append(
            _line(
                one,
                advice,
                (one.label, ""),
                (_mib(one.held), _bar(one.share, 1)),
                (f"{100 * one.share:.0f}", ""),
                loss,
                (words.times(one, "q8_0"), ""),
                (words.times(one, "q4_0"), ""),
                (one.verdict or words.NOTHING, ""),
                ("100" if one.is_base else words.share(one.same), ""),
                (str(one.loss.n) if one.loss else words.NOTHING, ""),
                columns=LOSS,
            )
        )
    equal = [said for name in ("q8_0", "q4_0") if (said := words.equal_bytes(found, name))]
    row = next(row for row in found.rows if "score_from" in row)
    every = "each" if row["stride"] == 1 else f"one in {row['stride']}"
    return [
        "<h2>What is lost</h2>",
        '<p class="about">Loss: mean KL divergence of the next token\'s distribution from the full f16 cache\'s, in nats; same next token: '
        "how often the likeliest one is the same. x q8_0's, x q4_0's: how many times what that full cache loses on the same documents; "
        "than q4_0: whether the interval of the paired difference tells them apart. In square brackets: 95 % intervals over documents, "
        f"from {MIN_UNITS} of them on. All caches are scored on the same tokens, {every} from token {row['score_from']:,} on, where every "
        "budget has evicted. Rounding: the full cache read in other batches; smaller losses tell nothing. Memory: what the cache held "
        "then, with little headroom, and with the observed queries and the work memory of an eviction.</p>",
        page.lines_as_html(LOSS, lines),
        "<h3>At no more bytes</h3>",
        page.list_as_html(equal),
    ]


def _speed(found: Found, advice: Advice | None) -> list:
    timed = [one for one in found.caches if one.row]
    if not timed:
        return []
    most = max(one.n_bytes for one in timed)
    lines = [
        _line(
            one,
            advice,
            (one.label, ""),
            (f"{one.row['n_cells']:,}", ""),
            (_mib(one.n_bytes), _bar(one.n_bytes, most)),
            (_mib(one.peak), ""),
            (words.rate(one.reads), ""),
            (words.NOTHING if one.is_base else words.ratio(found.reading(one)), ""),
            (words.rate(one.decodes), ""),
            (words.NOTHING if one.is_base else words.ratio(found.decoding(one)), ""),
            columns=SPEED,
        )
        for one in timed
    ]
    row = found.full.row or timed[0].row
    return [
        "<h2>What is gained</h2>",
        f'<p class="about">Reads: {row["n_depth"]:,} tokens from the first on, evictions included; decodes: {row["n_gen"]} tokens behind '
        "them, with the time of an eviction spread over the tokens between two. x full: how many times as fast as the full f16 cache in "
        "the same round, as the mean over rounds; in round brackets the lowest and the highest, in square ones the 95 % interval from "
        f"{MIN_UNITS} rounds on. Memory: all that the cache holds, with the headroom that capkv-chat gives it; process: its largest "
        "resident memory, weights included.</p>",
        page.lines_as_html(SPEED, lines),
    ]


def _line(one: Cache, advice: Advice | None, *cells: tuple, columns: tuple) -> str:
    chosen = ' class="chosen"' if advice and advice.cache.setup == one.setup else ""
    tds = "".join(f"<td{page.cell_class(right)}>{escaped(text)}{bar}</td>" for (text, bar), (_, right) in zip(cells, columns))
    return f"<tr{chosen}>{tds}</tr>"


def _bar(value: float, most: float, kind: str = "") -> str:
    if not isfinite(value) or most <= 0:
        return ""
    return f'<span class="{" ".join(("bar", kind)).strip()}" style="width:{100 * value / most:.1f}%"></span>'


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:.1f}" if isfinite(n_bytes) else words.NOTHING


def _plots(rows: list) -> list:
    try:
        return page.plots_as_html(rows, DEFAULT)
    except ImportError as err:
        return [f'<p class="soft">Left out: {escaped(str(err))}</p>']
