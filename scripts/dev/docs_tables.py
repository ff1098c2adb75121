"""Write the tables of README.md and docs/ that are generated from what the program declares, and from what was measured.

    scripts/dev/docs_tables.py             write what has changed
    scripts/dev/docs_tables.py options     print one table

A table stands between `<!-- table: NAME, written by scripts/dev/docs_tables.py -->` and `<!-- end of table -->`.
"""

import contextlib
import importlib
import io
import os
import re
import sys
from functools import partial
from pathlib import Path
from statistics import mean
from unittest import mock

from capkv_edge.bench.report.summary import summaries
from capkv_edge.bench.run.rows import Store
from capkv_edge.config import options, policies

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- table: (\w+), written by scripts/dev/docs_tables\.py -->\n).*?(<!-- end of table -->)", re.S)
ROWS = ROOT / "docs" / "results" / "rows.jsonl"
FIGURES = ROOT / "docs" / "results" / "readme.jsonl"  # make figures

# the table of figures: tokens, and setup of the rows -> its name in the table
LENGTH, DEPTH, NEEDLES = 8192, 4096, 2048
ASKED = dict(kind="retrieval", task="needles_3", length=NEEDLES, mode="blind", share=3)
SETUPS = {
    "full": "full, f16",
    "q8_0": "full, q8_0",
    "q4_0": "full, q4_0",
    "capkv@2048:q8_0": "**budget 2048**",
    "capkv@1024:q8_0": "**budget 1024**",
    "capkv@1024+recall": "the same with recall",
    "capkv@512:q8_0": "**budget 512**",
    "streaming@1024:q8_0": "sinks and recent tokens only, 1024",
    "shift@1024": "context shift, 1024, f16",
}


def markdown(head: tuple, rows: list) -> str:
    """A table in Markdown, with a line break at its end."""
    top, *lines = ("| " + " | ".join(row) + " |\n" for row in (head, *rows))
    return top + "|" + "---|" * len(head) + "\n" + "".join(lines)


def option_table() -> str:
    """The options of a KV budget."""
    rows = [(f"`{option.name}`", option.default, option.help, option.range) for option in options().values()]
    return markdown(("option", "default", "what it is", "allowed"), rows)


def policy_table() -> str:
    """The eviction policies."""
    rows = [(f"`{name}`", text) for name, text in policies().items()]
    return markdown(("policy", "what it keeps beside the sinks and the last tokens"), rows)


def read_rows() -> list[dict]:
    """The rows that the table of figures is made of: what is asked of a text was measured with all policies, the rest for this table."""
    all_policies, figures = (Store(path).rows() for path in (ROWS, FIGURES))
    return [row for row in all_policies if row["kind"] == "retrieval"] + figures


def figure_table(rows: list | None = None) -> str:
    """What a budget gains and loses: all rows, or these. What was not measured stays empty."""
    rows = read_rows() if rows is None else rows
    fidelity = {one.setup: one for one in summaries(rows, "fidelity")}
    asked = [row for row in rows if ASKED.items() <= row.items()]
    needles = {one.setup: one for one in sorted(summaries(asked, "retrieval"), key=lambda one: one.group["wording"])}
    bytes_full = next(iter(fidelity.values())).bytes_full

    def memory(setup: str) -> str:
        n_bytes = bytes_full if setup == "full" else fidelity[setup].bytes_total if setup in fidelity else None
        if n_bytes is None:
            return ""
        return f"{n_bytes / 2**20:.0f} MiB" + (", grows" if "@" not in setup else "")

    def same_top(setup: str) -> str:
        return f"{100 * fidelity[setup].figures['same_top'].mean:.1f} %" if setup in fidelity else ""

    def speed(setup: str) -> str:
        parts, tests = [], [row for row in rows if row["kind"] == "speed" and row["n_depth"] == DEPTH]
        for size in ("n_prompt", "n_gen"):
            found = [row for row in tests if row["setup"].split(",")[0] == setup and row[size]]
            longest = max((row[size] for row in found), default=None)
            parts += [f"{mean(row['avg_ts'] for row in found if row[size] == longest):.0f}"] if found else []
        return ", ".join(parts)

    def score(setup: str) -> str:
        setup = setup.partition(":")[0]  # measured in f16
        return f"{100 * needles[setup].figures['score'].mean:.0f} %" if setup in needles else ""

    head = (
        "cache",
        f"memory after {LENGTH:,} tokens",
        "same next token",
        f"reading, decoding after {DEPTH:,}, tokens/s",
        f"facts found in {NEEDLES:,} ¹",
    )
    lines = [(name, memory(setup), same_top(setup), speed(setup), score(setup)) for setup, name in SETUPS.items()]
    return markdown(head, lines)


def help_text(room: str) -> str:
    """What the command of a room of capkv_edge prints with --help, as a block of code."""
    main, printed = importlib.import_module(f"capkv_edge.{room}.cli").main, io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="110"), contextlib.redirect_stdout(printed):
        main(["--help"])
    return f"```text\n{printed.getvalue().strip()}\n```\n"


TABLES = {"options": option_table, "policies": policy_table, "figures": figure_table}
TABLES |= {f"help_{room}": partial(help_text, room) for room in ("chat", "serve", "inspector")}


def documents() -> dict:
    """{path: text} of the documents that can hold tables."""
    return {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def filled(text: str) -> str:
    """A document with its tables made anew. Raises KeyError for a table that nothing makes."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main(names: list) -> None:
    for name in names:
        print(TABLES[name](), end="")
    if not names:
        for path, text in documents().items():
            if filled(text) != text:
                path.write_text(filled(text), encoding="utf-8")
                print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
