"""Write the tables of README.md and docs/ that are generated from what the program declares, and from what was measured.

    scripts/dev/docs_tables.py             write what has changed
    scripts/dev/docs_tables.py options     print one table

A table stands between `<!-- table: NAME, written by scripts/dev/docs_tables.py -->` and `<!-- end of table -->`.
"""

import json
import re
import sys
from pathlib import Path
from statistics import mean

from capkv_edge.bench.report.summary import summaries
from capkv_edge.config import options, policies

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- table: (\w+), written by scripts/dev/docs_tables\.py -->\n).*?(<!-- end of table -->)", re.S)
ROWS = ROOT / "docs" / "results" / "rows.jsonl"

# the table of figures: tokens, and setup of the rows -> its name in the table
LENGTH, LENGTH_QUANTIZED, DEPTH, NEEDLES = 8192, 2048, 4096, (2048, 4096)
SETUPS = {
    "full": "full, f16",
    "q8_0": "full, q8_0",
    "q4_0": "full, q4_0",
    "capkv@2048": "**budget 2048**",
    "capkv@1024": "**budget 1024**",
    "capkv@512": "**budget 512**",
    "streaming@1024": "sinks and recent tokens only, 1024",
    "streaming@512": "sinks and recent tokens only, 512",
    "shift@1024": "context shift, 1024",
    "shift@512": "context shift, 512",
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
    """The rows that the documents are made of."""
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def figure_table(rows: list | None = None) -> str:
    """What a budget gains and loses: all rows, or these. What was not measured stays empty."""
    rows = read_rows() if rows is None else rows
    essays = [one for one in summaries(rows, "fidelity") if one.group["corpus"] == "essays"]
    fidelity = {one.setup: one for one in essays if one.group["n_ctx"] == LENGTH}
    quantized = {one.setup: one for one in essays if one.group["n_ctx"] == LENGTH_QUANTIZED and one.policy is None}
    needles = {(one.setup, one.group["length"]): one for one in summaries(rows, "retrieval")}
    bytes_full = next(iter(fidelity.values())).bytes_full

    def memory(setup: str) -> str:
        if setup == "full":
            return f"{bytes_full / 2**20:.0f} MiB, grows"
        if setup in quantized:
            return f"{quantized[setup].share * bytes_full / 2**20:.0f} MiB, grows"
        return f"{fidelity[setup].bytes_total / 2**20:.0f} MiB" if setup in fidelity else ""

    def same_top(setup: str) -> str:
        found = fidelity.get(setup) or quantized.get(setup)
        if found is None:
            return ""
        note = "" if found.group["n_ctx"] == LENGTH else " ¹"
        return f"{100 * found.figures['same_top'].mean:.1f} %{note}"

    def speed(setup: str) -> str:
        parts = []
        for n_prompt, n_gen in ((512, 0), (0, 64)):
            test = dict(kind="speed", n_prompt=n_prompt, n_gen=n_gen, n_depth=DEPTH)
            found = [row for row in rows if row["setup"].split(",")[0] == setup and all(row.get(k) == v for k, v in test.items())]
            parts += [f"{mean(row['avg_ts'] for row in found):.0f}"] if found else []
        return ", ".join(parts)

    def score(setup: str) -> str:
        found = [needles[setup, n] for n in NEEDLES if (setup, n) in needles]
        return ", ".join(f"{100 * one.figures['score'].mean:.0f} %" for one in found)

    head = (
        "cache",
        f"memory after {LENGTH:,} tokens",
        "same next token",
        f"reading, decoding after {DEPTH:,}, tokens/s",
        "facts found in " + ", ".join(f"{n:,}" for n in NEEDLES),
    )
    lines = [(name, memory(setup), same_top(setup), speed(setup), score(setup)) for setup, name in SETUPS.items()]
    return markdown(head, lines)


TABLES = {"options": option_table, "policies": policy_table, "figures": figure_table}


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
