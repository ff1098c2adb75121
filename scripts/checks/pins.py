"""Whether a rule of the system prompt is still kept after many turns of other talk, with the system prompt pinned and without.

    python scripts/checks/pins.py                                  20 and 200 turns: hours on a laptop; a stopped run goes on where it was
    python scripts/checks/pins.py --turns 20 --texts 4 --share 2   minutes
    python scripts/checks/pins.py --setup capkv@512+pin --gpu-layers -1     one setup, on a GPU
    python scripts/checks/pins.py --document docs/results.md       write the table of all rows between its marks, and end

The tasks are those of `capkv-bench retrieval`: `instruction_shown`, in which all replies before keep the rule, and `instruction`, in
which none does. Each text is read by each setup, evicted, and then asked. The last line of the output is one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

from capkv_edge import models
from capkv_edge.bench.intervals import intervals
from capkv_edge.bench.measure import retrieval
from capkv_edge.bench.report.results import write_part
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup

ROOT = Path(__file__).resolve().parents[2]
TASKS = ["instruction_shown", "instruction"]
BEGIN, END = "<!-- pins: begin -->", "<!-- pins: end -->"


def setups(budgets: list) -> list:
    """The full cache, and capkv and sinks with recent tokens at each budget, each with a pin and without."""
    pairs = [(policy, budget) for budget in budgets for policy in ("capkv", "streaming")]
    return [Setup(), *(Setup.parse(f"{policy}@{budget}{pin}") for policy, budget in pairs for pin in ("", "+pin"))]


def scores(rows: list) -> dict:
    """{(task, turns, setup): scores of the texts} of rows of retrieval."""
    out = {}
    for row in rows:
        if row["task"] in TASKS:
            out.setdefault((row["task"], row["n_turns"], row["setup"]), {})[row["text"]] = row["score"]
    return {key: list(by_text.values()) for key, by_text in out.items()}


def table(rows: list) -> str:
    """Share of the replies that keep the rule, in percent, with its 95 % interval over texts where there are five or more."""
    found = scores(rows)
    columns = sorted({(task, n) for task, n, _ in found}, key=lambda key: (TASKS.index(key[0]), key[1]))
    known = [setup.name for setup in setups(sorted({str(row["budget"]) for row in rows if row.get("budget")}, key=int))]
    names = sorted({name for _, _, name in found}, key=lambda name: (known.index(name) if name in known else len(known), name))
    lines = [["setup", *(f"`{task}`, {n} turns" for task, n in columns)]]
    for name in names:
        cells = []
        for task, n in columns:
            values = found.get((task, n, name))
            cells.append(cell(values) if values else "")
        lines.append([f"`{name}`", *cells])
    head, *rest = ("| " + " | ".join(line) + " |\n" for line in lines)
    return head + "|---|" + "---:|" * len(columns) + "\n" + "".join(rest)


def where(rows: list) -> str:
    """A sentence that says which model answered, and on what."""
    seen = {name: ", ".join(sorted({row[name] for row in rows if row["task"] in TASKS})) for name in ("model", "device")}
    return f"Model {seen['model']} on {seen['device']}."


def cell(values: list) -> str:
    """The mean of scores in percent, with its 95 % interval where there are five or more."""
    (one,) = intervals([[value] for value in values])
    return f"{100 * one.mean:.0f} ({100 * one.lo:.0f} to {100 * one.hi:.0f})" if one.known else f"{100 * one.mean:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=models.DEMO, help="a GGUF file, or demo (default: %(default)s)")
    parser.add_argument("--turns", nargs="+", type=int, default=[20, 200], help="turns of other talk (default: 20 200)")
    parser.add_argument("--budget", nargs="+", default=["512"], help="budgets in tokens (default: 512)")
    parser.add_argument("--texts", type=int, default=24, help="conversations of each cell (default: %(default)s)")
    parser.add_argument("--share", type=int, default=5, help="messages about each, asked one by one (default: %(default)s)")
    parser.add_argument("--task", nargs="+", default=TASKS, choices=TASKS, help="tasks (default: both)")
    parser.add_argument("--setup", nargs="+", help="these setups alone (default: those of --budget)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: the cores that it may use)")
    parser.add_argument("--gpu-layers", type=int, default=None, help="layers on the GPU, -1: all (default: all in a build with a GPU)")
    parser.add_argument("--rows", type=Path, default=ROOT / "build" / "pins.jsonl", help="where the rows are kept")
    parser.add_argument("--document", type=Path, help="only write the table of the rows into this file")
    args = parser.parse_args()

    if args.document:
        rows = Store(args.rows).rows("retrieval")
        write_part(args.document, f"{where(rows)}\n\n{table(rows)}", BEGIN, END)
        return 0

    args.rows.parent.mkdir(parents=True, exist_ok=True)
    store = Store(args.rows)
    chosen = [Setup.parse(name) for name in args.setup] if args.setup else setups(args.budget)
    with Engine(models.resolve(args.model), n_threads=args.threads, n_gpu_layers=args.gpu_layers) as engine:
        for n_turns in args.turns:
            plan = retrieval.Plan(args.task, chosen, n_turns=n_turns, n_texts=args.texts, share=args.share)
            for row in retrieval.run(engine, plan, store):
                print(f"{row['task']:18} {row['n_turns']:4} turns  text {row['text']:3}  {row['setup']:20} {row['score']:.2f}", flush=True)
    rows = store.rows("retrieval")
    print("\n" + table(rows))
    print(json.dumps({" ".join(map(str, key)): sum(values) / len(values) for key, values in scores(rows).items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
