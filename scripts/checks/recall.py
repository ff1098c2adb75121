"""What recall finds, what it should not have found, and what it costs. No model answers: its tokenizer alone is used.

    python scripts/checks/recall.py cost --tokens 1000000              bytes of the index, time to add and to ask
    python scripts/checks/recall.py hits --length 4096,32768,131072    share of the expected strings in what comes back
    python scripts/checks/recall.py false --length 4096,32768,131072   turns that need nothing, and get something
    python scripts/checks/recall.py gate                               the same two for other gates, on texts kept for choosing it

Everything counts as evicted. `--rows FILE` keeps one JSON object for each measurement, and does not repeat what the file has;
`--document docs/recall.md` writes the tables of that file into it. Seeds: 11 chose the gate, 12 is reported; of the turns that need
nothing, those with even numbers chose it and the others are reported.
"""

import argparse
import itertools
import json
import re
import statistics
import sys
import time
from pathlib import Path

from capkv_edge.bench.measure.retrieval import Condition, Plan, Reader, make_text
from capkv_edge.bench.report.results import replace_part
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.tasks import corpora, registry
from capkv_edge.bench.tasks.small_talk import GO_ON, QUESTIONS, TALK
from capkv_edge.recall.archive import Archive
from capkv_edge.recall.choice import QUOTA, Choice, Gate
from capkv_edge.recall.query import Weigher

TASKS = [*(name for name in registry.RULER if name.startswith(("niah", "vt"))), "needles_10", "recall", "recall_reworded"]
SEED_GATE, SEED = 11, 12
N_BATCH, N_RECENT = 512, 64
TOKENS_PER_TURN = 50  # of the dialogues, about


class Texts:
    """Archives and questions of the bench's tasks."""

    def __init__(self, engine):
        self.engine, self.reader = engine, Reader(engine)
        self.weigher = Weigher(engine.tokenize, engine.n_vocab)

    def choice(self, tokens, gate=None) -> Choice:
        archive = Archive(self.engine.piece)
        archive.extend(tokens, len(tokens))
        return Choice(archive, self.weigher, self.reader.count, gate)

    def make(self, task: str, length: int, index: int, seed: int, share: int) -> tuple:
        """(tokens, items) of a text."""
        found = registry.find(task)
        share = found.share_of(share)
        n = max(length // TOKENS_PER_TURN, 1) if found.turns else length
        plan = Plan([task], [], lengths=[n], n_turns=n, share=share, seed=seed)
        text = make_text(self.reader, plan, Condition(task, found.haystack, n, "blind", share), index)
        return self.reader.prefix(text), text.items


def hits(texts: Texts, task: str, length: int, args, seed=SEED) -> dict:
    """Of the questions of one cell: share of the expected strings in what comes back, share for which anything comes back, tokens."""
    found, some, n_tokens, n_archive = [], [], [], []
    for index in itertools.count():
        if len(found) >= args.questions:
            break
        tokens, items = texts.make(task, length, index, seed, args.share)
        choice = texts.choice(tokens)
        n_archive.append(len(tokens))
        for item in items:
            back = choice.find(item.question, QUOTA)
            text = back.text.lower() if back else ""
            found.append(statistics.mean(one.lower() in text for one in item.expected))
            some.append(back is not None)
            n_tokens.append(texts.reader.count(text))
    return dict(
        n=len(found),
        hit=statistics.mean(found),
        some=statistics.mean(some),
        tokens=statistics.mean(n_tokens),
        n_tokens=round(statistics.mean(n_archive)),
    )


def idle_turns(task: str, part: int) -> list:
    """[(kind, turn)] of turns that need nothing; part 0 chose the gate, 1 is reported."""
    kinds = dict(small=[*QUESTIONS] if registry.find(task).turns else [*QUESTIONS, *(question for question, _ in TALK)], go_on=GO_ON)
    return [(kind, turn) for kind, turns in kinds.items() for turn in turns[part::2]]


def false(texts: Texts, task: str, length: int, args, seed=SEED, part=1) -> dict:
    """Of the turns that need nothing of a text: share that gets something, by kind."""
    some = {"small": [], "go_on": []}
    for index in range(args.texts):
        tokens, _ = texts.make(task, length, index, seed, 1)
        choice = texts.choice(tokens)
        for kind, turn in idle_turns(task, part):
            some[kind].append(choice.find(turn, QUOTA) is not None)
    return dict(n=sum(map(len, some.values())), **{kind: statistics.mean(one) for kind, one in some.items()})


def cost(texts: Texts, name: str, n_tokens: int, args) -> dict:
    """Reading n_tokens of a text in batches, then asking: bytes per token, microseconds per token, milliseconds per query."""
    text = "\n\n".join(text for _, text in corpora.load(name))
    tokens = texts.engine.tokenize(text[: 8 * n_tokens])
    n_repeats = -(-n_tokens // len(tokens))
    tokens = (tokens * n_repeats)[:n_tokens]
    choice = texts.choice([])
    start, cpu = time.perf_counter(), time.process_time()
    for i in range(0, n_tokens, N_BATCH):
        part = tokens[i : i + N_BATCH]
        choice.archive.extend(part, max(i + len(part) - N_RECENT, 0))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    words = re.findall(r"\w{5,}", texts.engine.detokenize(tokens[:: max(n_tokens // 4000, 1)]))
    asked = [f"What was said about {' and '.join(words[i : i + 4])}, and why?" for i in range(0, 800, 4)] + list(GO_ON)
    taken = []
    for turn in asked:
        start = time.perf_counter()
        choice.find(turn, QUOTA)
        taken.append(1e3 * (time.perf_counter() - start))
    taken.sort()
    return dict(
        bytes_per_token=choice.archive.n_bytes / n_tokens,
        us_per_token=1e6 * cpu / n_tokens,
        us_per_token_wall=1e6 * wall / n_tokens,
        ms_median=statistics.median(taken),
        ms_95=taken[int(0.95 * len(taken))],
        ms_most=taken[-1],
        n_passages=choice.archive.index.n,
        n_repeats=n_repeats,
    )


def gates(texts: Texts, args) -> list:
    """For each gate: share of questions for which something comes back, the least of all tasks, and of turns that need nothing."""
    cells = [(task, length) for task in TASKS if task != "recall_reworded" for length in args.length]
    asked, idle = [], []
    for task, length in cells:
        for index in range(args.texts):
            tokens, items = texts.make(task, length, index, SEED_GATE, args.share)
            choice = texts.choice(tokens)
            asked += [(task, length, choice, item.question) for item in items]
            idle += [(choice, turn) for _, turn in idle_turns(task, 0)]
    best = [[(task, length), choice.search(question, 1)] for task, length, choice, question in asked]
    idle = [choice.search(turn, 1) for choice, turn in idle]
    out = []
    for least, share, sure in itertools.product((0.6, 0.7, 0.75, 0.8, 0.9), (0.0, 0.4, 0.5, 0.6), (1.2, 1.4, 1.6)):
        gate = Gate(least, share, sure)

        def passes(found, gate=gate):
            return bool(found) and Choice(None, None, None, gate).passes(found[0])

        by_cell = {}
        for cell, found in best:
            by_cell.setdefault(cell, []).append(passes(found))
        wrong = statistics.mean(map(passes, idle))
        worst = min(by_cell, key=lambda cell: statistics.mean(by_cell[cell]))
        right = statistics.mean(statistics.mean(one) for one in by_cell.values())
        out.append(dict(least=least, share=share, sure=sure, wrong=wrong, right=right, worst=statistics.mean(by_cell[worst])))
    return out


# --- rows and tables ---


def table(heads: tuple, lines: list) -> str:
    top, *rest = ("| " + " | ".join(map(str, line)) + " |\n" for line in (heads, *lines))
    return top + "|---|" + "---:|" * (len(heads) - 1) + "\n" + "".join(rest)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def tables(rows: list) -> dict:
    """The tables of docs/recall.md by the names of their marks."""
    out = {}
    found = [row for row in rows if row["what"] == "hits"]
    lengths = sorted({row["length"] for row in found})
    at = {(row["task"], row["length"]): row for row in found}
    lines = [
        [f"`{task}`"] + [f"{percent(at[task, n]['hit'])} ({percent(at[task, n]['some'])})" if (task, n) in at else "" for n in lengths]
        for task in TASKS
    ]
    out["hits"] = table(("task", *(f"{n:,} tokens" for n in lengths)), lines)
    found = [row for row in rows if row["what"] == "false"]
    lines = []
    for length in sorted({row["length"] for row in found}):
        cells = [row for row in found if row["length"] == length]
        shares = [percent(statistics.mean(row[kind] for row in cells)) for kind in ("small", "go_on")]
        worst = max(cells, key=lambda row: row["small"] + row["go_on"])
        mean = (worst["small"] + worst["go_on"]) / 2
        lines.append([f"{length:,}", sum(row["n"] for row in cells), *shares, f"{percent(mean)} (`{worst['task']}`)"])
    out["false recall"] = table(("tokens", "turns", "small talk", "go on, thanks, a summary", "worst text"), lines)
    found = [row for row in rows if row["what"] == "cost"]
    lines = [
        [f"{row['text']}" + (f", {row['n_repeats']} times" if row["n_repeats"] > 1 else ""), f"{row['n_tokens']:,}"]
        + [f"{row['n_passages']:,}", f"{row['bytes_per_token']:.0f}", f"{row['us_per_token']:.1f}"]
        + [f"{row['ms_median']:.1f}", f"{row['ms_95']:.1f}", f"{row['ms_most']:.1f}"]
        for row in found
    ]
    heads = ("text", "tokens", "passages", "bytes per token", "µs to add a token", "ms per query", "95 %", "most")
    out["cost"] = table(heads, lines)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cost", "hits", "false", "gate", "tables"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--length", default="4096,32768", help="tokens of the texts (default: %(default)s)")
    parser.add_argument("--task", default=",".join(TASKS), help="tasks (default: all needles, vt and the dialogues)")
    parser.add_argument("--texts", type=int, default=2, help="texts of each cell for false and gate (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=100, help="questions of each cell for hits (default: %(default)s)")
    parser.add_argument("--share", type=int, default=20, help="questions about one text (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens of each text for cost (default: %(default)s)")
    parser.add_argument("--rows", type=Path, default=None)
    parser.add_argument("--document", type=Path, default=None)
    args = parser.parse_args()
    args.length = [int(one) for one in args.length.split(",")]
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows and args.rows.exists() else []

    def add(key: dict, measure) -> None:
        if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
            return
        rows.append({**key, **measure()})
        print(json.dumps(rows[-1]), flush=True)
        if args.rows:
            with args.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")

    with Engine(args.model, n_threads=1) as engine:
        texts = Texts(engine)
        if args.what == "gate":
            for row in gates(texts, args):
                print(json.dumps({name: round(value, 3) for name, value in row.items()}))
        elif args.what == "cost":
            for name in ("essays", "python-docs", "python-code"):
                key = dict(what="cost", text=name, n_tokens=args.tokens)
                add(key, lambda name=name: cost(texts, name, args.tokens, args))
        elif args.what != "tables":
            for length, task in itertools.product(args.length, args.task.split(",")):
                measure = hits if args.what == "hits" else false
                add(dict(what=args.what, task=task, length=length), lambda t=task, n=length, m=measure: m(texts, t, n, args))
    if args.document:
        text = args.document.read_text(encoding="utf-8")
        for name, made in tables(rows).items():
            text = replace_part(text, made, f"<!-- {name}: begin -->", f"<!-- {name}: end -->")
        args.document.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
