"""One HTML page of all that was measured. It needs no other file and loads nothing."""

import html
from pathlib import Path

from ..kinds import KINDS, text_of
from .caveats import find_caveats
from .plots.draw import FLOOR, plots
from .plots.style import series_class
from .rounds import tests
from .summary import DEFAULT, all_comparisons, series_of, summaries
from .tables import Table, pooled_tables, tables
from .verdicts import sentences

NAME = "index.html"
EVICTION = (
    "What was evicted is gone.",
    "A budget bounds memory and keeps the speed at any length; it does not make recall longer. Each KV head keeps the first "
    "tokens, the last ones and those that the policy scores highest. A question about any other token finds nothing to attend "
    "to, and the answer may be wrong without any sign of it.",
)
RAN = {  # field of a row -> label
    "model": "model",
    "model_type": "type",
    "model_hash": "model's hash",
    "device": "device",
    "backends": "backends",
    "n_threads": "threads",
    "n_gpu_layers": "layers on the GPU",
    "version": "capkv-edge",
    "commit": "commit",
    "pin": "llama.cpp of",
    "build": "build",
    "lib": "libraries' hash",
    "built": "built",
    "seed": "seeds",
    "kv_seed": "seeds of the sample",
}


def render(rows: list[dict], command: str = "", default: str = DEFAULT, floor: float = FLOOR) -> str:
    """The page. Everything in it that comes from rows is escaped.

    Raises:
        ImportError: matplotlib is missing; the message says how to install it.
    """
    models = ", ".join(sorted({text_of(row.get("model")) for row in rows})) or "nothing was measured"
    found = tables(rows, default, with_pooled=False)
    parts = [
        f"<h1>capkv-bench: {escaped(models)}</h1>",
        '<p class="soft">A KV cache of fixed size against the full cache of the same quantized model, on the same text.</p>',
        f'<div class="warn"><p><strong>{EVICTION[0]}</strong></p><p>{EVICTION[1]}</p></div>',
        what_was_run(rows, command),
        *_verdicts(rows, default),
        _boxes(rows, default),
        *plots_as_html(rows, default, floor),
        "<h2>Tables</h2>" if found else "",
        *(table_as_html(table, default) for table in found),
        caveats_as_html(rows),
    ]
    return document(f"capkv-bench: {models}", parts)


def document(title: str, parts: list[str], style: str = "") -> str:
    """A page of its own out of parts of HTML, of which empty ones are left out.

    Args:
        title: as text.
        style: CSS beside that of all pages.
    """
    folder = Path(__file__).parent
    common, script = ((folder / f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{common}{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def write(rows: list[dict], folder, command: str = "", default: str = DEFAULT, floor: float = FLOOR) -> Path:
    """Write the page into a folder, which is made; returns its path."""
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(rows, command, default, floor), encoding="utf-8")
    return path


def escaped(value: str) -> str:
    """A text as HTML, in attributes too."""
    return html.escape(value, quote=True)


def what_was_run(rows: list, command: str) -> str:
    """The part of a page that says what the rows are of: model, machine, build."""
    pairs = [("command", f"<code>{escaped(command)}</code>")] if command else []
    for name, label in RAN.items():
        seen = sorted(
            {
                ", ".join(map(str, v)) if isinstance(v, list) else text_of(v)
                for v in (row.get(name) for row in rows)
                if v is not None
            }
        )
        if seen:
            pairs.append((label, ", ".join(f"<code>{escaped(one)}</code>" for one in seen)))
    dates = sorted(str(row["date"]) for row in rows if row.get("date"))
    if dates:
        pairs.append(("measured", escaped(dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}")))
    pairs.append(("rows", str(len(rows))))
    return "<h2>What was run</h2>\n<dl>\n" + "".join(f"<dt>{escaped(k)}</dt><dd>{v}</dd>\n" for k, v in pairs) + "</dl>"


def _verdicts(rows: list, default: str) -> list[str]:
    out = []
    for kind in KINDS.values():
        found = summaries(rows, kind.name) if kind.unit else []
        said = [text for paired in all_comparisons(found, default) for text in sentences(paired, code="")]
        if said:
            out.append(f"<h3>{kind.title}</h3>\n{list_as_html(said)}")
            out += [table_as_html(table, default) for table in pooled_tables(rows, kind, default)]
    return [f"<h2>Where {escaped(default)} wins, ties and loses</h2>", *out] if out else []


def _boxes(rows: list, default: str) -> str:
    shown = [
        row
        for kind in KINDS.values()
        for row in (tests(rows, kind.name) if not kind.unit else rows)
        if row.get("kind") == kind.name
    ]
    names = sorted({series_of(row["setup"]) for row in shown}, key=lambda name: (name != default, name))
    if not names:
        return ""
    boxes = [
        f'<label><input type="checkbox" value="{series_class(name)}" checked>{escaped(name)}</label>'
        for name in names
        if name != "full"
    ]
    return (
        '<nav aria-label="what is shown">\n<span class="soft">show</span> '
        + "\n".join(boxes)
        + '\n<button type="button">all</button>\n</nav>'
    )


def plots_as_html(rows: list, default: str, floor: float = FLOOR) -> list[str]:
    """The plots of the rows as parts of a page. Raises ImportError as render()."""
    out = []
    for i, plot in enumerate(plots(rows, default, floor)):
        head = f"<h2>{escaped(plot.title)}</h2>\n<figcaption>{escaped(plot.caption)}</figcaption>"
        out.append(f"<figure>\n{head}\n{plot.svg(f'p{i}-')}\n</figure>")
    return out


def table_as_html(table: Table, default: str) -> str:
    """A table as a part of a page; a click on the name of a column sorts by it."""
    lines = []
    for series, line in zip(table.series, table.lines):
        mark = " default" if series == default else ""
        tds = "".join(f"<td{cell_class(right, text)}>{escaped(text)}</td>" for text, (_, right) in zip(line, table.columns))
        lines.append(f'<tr class="{series_class(series)}{mark}">{tds}</tr>')
    about = f'<h3>{escaped(table.title)}</h3>\n<p class="about">{escaped(table.about)}</p>\n'
    return about + lines_as_html(table.columns, lines)


def lines_as_html(columns: list, lines: list[str]) -> str:
    """The frame of a table. columns: (name, whether its cells stand at the right); lines: each a row as HTML."""
    names = (f'<th scope="col"{cell_class(right)}><button type="button">{escaped(name)}</button></th>' for name, right in columns)
    head, body = "".join(names), "\n".join(lines)
    return f'<div class="table" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def cell_class(right: bool, text: str = "") -> str:
    """The class of a cell with a space before it: where its text stands, or which verdict it is."""
    return ' class="r"' if right else f' class="{text}"' if text in ("wins", "loses") else ""


def list_as_html(texts: list) -> str:
    """A list of texts."""
    return "<ul>\n" + "".join(f"<li>{escaped(one)}</li>\n" for one in texts) + "</ul>"


def caveats_as_html(rows: list) -> str:
    """The part of a page that says what to know before believing its tables; empty where there is nothing to say."""
    found = find_caveats(rows)
    return f"<h2>Notes</h2>\n{list_as_html(found)}" if found else ""
