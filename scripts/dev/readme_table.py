"""README's table of what a budget gains and loses, made of docs/results/rows.jsonl; docs_tables.py writes it.

What was not measured stays empty.
"""

import json
from pathlib import Path
from statistics import mean

from capkv_edge.bench.report.summary import summaries

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "results" / "rows.jsonl"

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


def read_rows() -> list[dict]:
    """The rows that the documents are made of."""
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def lines(rows: list[dict]) -> list[tuple]:
    """The lines of the table below HEAD."""
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

    return [(name, memory(setup), same_top(setup), speed(setup), score(setup)) for setup, name in SETUPS.items()]
