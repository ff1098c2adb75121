"""What capkv-bench prints: -o md, csv, json or jsonl.

md is for reading: summaries with intervals, and for speed a line per test as llama-bench prints it. The others are for
programs and have the rows with all fields.
"""

import csv
import io
import json
from math import isfinite

from ..kinds import KINDS
from .caveats import find_caveats
from .summary import DEFAULT
from .tables import Table, tables

FORMATS = ("md", "csv", "json", "jsonl")


def check_format(form: str) -> None:
    """Raises ValueError where `form` is not one of FORMATS."""
    if form not in FORMATS:
        raise ValueError(f"--output = {form}: allowed is one of {', '.join(FORMATS)}")


def markdown(table: Table, title: bool = False) -> str:
    """The table as aligned Markdown."""
    texts = [[_escaped(name) for name, _ in table.columns], *([_escaped(text) for text in line] for line in table.lines)]
    widths = [max(2, *map(len, column)) for column in zip(*texts)]  # the rule of a column of numbers is -: at least
    rights = [right for _, right in table.columns]
    lines = [
        "| " + " | ".join(f"{text:>{w}}" if right else f"{text:<{w}}" for text, w, right in zip(line, widths, rights)) + " |"
        for line in texts
    ]
    rule = "| " + " | ".join("-" * (w - 1) + (":" if right else "-") for w, right in zip(widths, rights)) + " |"
    head = [f"### {table.title}", "", table.about, ""] if title else []
    return "\n".join([*head, lines[0], rule, *lines[1:]]) + "\n"


def _escaped(text: str) -> str:
    """One line, in which no character ends the field of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _md(rows: list, default: str) -> str:
    if not rows:
        return "no rows\n"
    found, measured = tables(rows, default), {row.get("kind") for row in rows}
    alone = len(found) == 1 and not any(kind.unit for kind in KINDS.values() if kind.name in measured)  # as llama-bench prints it
    parts = [markdown(table, title=not alone) for table in found]
    caveats = find_caveats(rows)
    parts += ["".join(f"note: {_escaped(one)}\n" for one in caveats)] if caveats else []
    builds = sorted({f"{row.get('commit')} with llama.cpp of {row.get('pin')}" for row in rows})
    return "\n".join([*parts, f"build: {', '.join(builds)}\n"])


def _csv(rows: list) -> str:
    if not rows:
        return ""
    fields = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        writer.writerow([_csv_value(row.get(name)) for name in fields])
    return out.getvalue()


def _csv_value(value):
    """Lists, objects and truth values as JSON, numbers as they are, None as an empty field."""
    return json.dumps(without_nan(value), ensure_ascii=False) if isinstance(value, (bool, dict, list)) else value


def render(rows: list[dict], form: str, default: str = DEFAULT) -> str:
    """The rows in one of FORMATS.

    Raises:
        ValueError: another format.
    """
    check_format(form)
    if form == "md":
        return _md(rows, default)
    if form == "csv":
        return _csv(rows)
    rows = [without_nan(row) for row in rows]
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def without_nan(value):
    """The value with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
