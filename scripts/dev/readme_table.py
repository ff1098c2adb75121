"""Write README's table of what a budget gains and loses, between its marks, from docs/results/rows.jsonl.

    python scripts/dev/readme_table.py [--check]

--check writes nothing; exit status 1 if README does not have the table that the rows give. Cells that were not measured
stay empty.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

from capkv_edge.bench.report.summary import cells

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
ROWS = ROOT / "docs" / "results" / "rows.jsonl"
BEGIN, END = "<!-- figures: begin, by scripts/dev/readme_table.py -->", "<!-- figures: end -->"

LENGTH, LENGTH_QUANTIZED, DEPTH, NEEDLES = 8192, 2048, 4096, (2048, 4096)  # tokens

# setup of the rows: its name in the table
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
HEAD = (
    "cache",
    f"memory after {LENGTH:,} tokens",
    "same next token",
    f"reading, decoding after {DEPTH:,}, tokens/s",
    "facts found in " + ", ".join(f"{n:,}" for n in NEEDLES),
)


def table(rows: list[dict]) -> str:
    """The Markdown table."""
    essays = [cell for cell in cells(rows, "fidelity") if cell.group["corpus"] == "essays"]
    fidelity = {cell.setup: cell for cell in essays if cell.group["n_ctx"] == LENGTH}
    quantized = {cell.setup: cell for cell in essays if cell.group["n_ctx"] == LENGTH_QUANTIZED and cell.policy is None}
    needles = {(cell.setup, cell.group["length"]): cell for cell in cells(rows, "retrieval")}
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
        return ", ".join(f"{100 * cell.figures['score'].mean:.0f} %" for cell in found)

    lines = [HEAD, ("---",) * len(HEAD)]
    lines += [(name, memory(setup), same_top(setup), speed(setup), score(setup)) for setup, name in SETUPS.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing: exit status 1 if README has another table")
    args = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    text = README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"capkv: README.md has no '{BEGIN}' and '{END}'")
    wanted = f"{before}{begin}\n\n{table(rows)}\n\n{end}{after}"
    if args.check:
        if wanted != text:
            print("capkv: README.md's table is not that of the rows: run scripts/dev/readme_table.py", file=sys.stderr)
        return int(wanted != text)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
