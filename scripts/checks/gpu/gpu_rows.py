"""The rows of scripts/checks/gpu/check.sh: a file with one JSON object per check, and the table made of them.

A row has step and what (together its key), result (a text), passed (true, false, or null for a figure without a limit), seconds,
and build (a hash of the libraries).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
OUT = Path(os.environ.get("CAPKV_GPU_CHECK_OUT") or ROOT / "gpu-results").absolute()
STEPS = ("build", "scorers", "models", "chat", "speed", "sanitize")  # those with rows


def build_hash(lib: Path) -> str:
    """A hash of the libraries in a folder. Rows of other libraries do not count."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(lib.glob("lib*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class Rows:
    """The rows of one build. The file OUT/rows.jsonl has those of other builds too; of rows with one key the last one counts."""

    def __init__(self, build: str, path: Path | None = None):
        self.build, self.path = build, path or OUT / "rows.jsonl"
        self.found = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line) if line.endswith("}") else {}  # a run that was killed may have left half a line
                if row.get("build") == build:
                    self.found[row["step"], row["what"]] = row

    def add(self, step: str, what: str, result: str, passed: bool | None, seconds: float = 0.0) -> None:
        row = dict(step=step, what=what, result=result, passed=passed, seconds=round(seconds, 1), build=self.build)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(row) + "\n")
        self.found[step, what] = row
        print(f"{step:9} {what:44} {word(passed):7} {row['seconds']:7.1f} s  {result}", flush=True)

    def check(self, step: str, what: str, measure) -> None:
        """Call measure() and add the (result, passed) that it returns. An exception is a failure. A row that has not failed is kept."""
        if (step, what) in self.found and self.found[step, what]["passed"] is not False:
            return
        start = time.perf_counter()
        try:
            result, passed = measure()
        except Exception as error:
            result, passed = f"{type(error).__name__}: {error}"[:300], False
        self.add(step, what, result, passed, time.perf_counter() - start)

    def failed(self, step: str | None = None) -> list:
        return [row for row in self.found.values() if row["passed"] is False and step in (None, row["step"])]

    def missing(self) -> list:
        return [step for step in STEPS if not any(row["step"] == step for row in self.found.values())]


def word(passed: bool | None) -> str:
    return {True: "ok", False: "FAILED", None: ""}[passed]


def table(rows: Rows, about: dict) -> str:
    """The rows as Markdown, in the order of the steps; about: what they are of."""
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| step | what | result | | seconds |", "|---|---|---|---|---|"]
    for step in STEPS:
        for row in (row for row in rows.found.values() if row["step"] == step):
            cells = (step, row["what"], " ".join(row["result"].split()).replace("|", "\\|"), word(row["passed"]), f"{row['seconds']:.1f}")
            lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {step} | was not run | | FAILED | |" for step in rows.missing()]
    n_failed = len(rows.failed()) + len(rows.missing())
    return "\n".join([*lines, "", f"{len(rows.found)} rows, {n_failed} failed or missing.", ""])
