"""Questions about a text that the cache no longer holds, answered by a model: with recall and without, beside the full cache.

    python scripts/checks/recall_answers.py --length 4096                            hours on a laptop; a stopped run goes on where it was
    python scripts/checks/recall_answers.py --setup capkv@512+recall --gpu-layers -1 one setup at all lengths, on a GPU
    python scripts/checks/recall_answers.py --document docs/recall.md                write the tables of all rows between its marks, and end

Tasks and seed are those of recall.py; the dialogues have as many turns as make up the length, about. The cache is evicted down to its
budget before a question is known. The last line of the output is one JSON object.
"""

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path
from statistics import mean, median

from capkv_edge import models
from capkv_edge.bench.measure import retrieval
from capkv_edge.bench.report.results import write_part
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup
from capkv_edge.bench.tasks import registry
from pins import cell
from recall import SEED, TASKS, TOKENS_PER_TURN

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = [4096, 32768, 131072]
REWORDED = "recall_reworded"  # not in means: what is asked in other words is not found
ENOUGH = 0.95  # of what full+recall answers
BEGIN, END = "<!-- answers: begin -->", "<!-- answers: end -->"


def setups(budgets: list) -> list:
    names = ["full", "full+recall"]
    for budget in budgets:
        names += [f"capkv@{budget}", f"capkv@{budget}+recall", f"streaming@{budget}+recall"]
    return [Setup.parse(name) for name in names]


def units(task: str, length: int) -> int:
    """What the bench calls the length of a text of about so many tokens: of a dialogue its turns."""
    return max(length // TOKENS_PER_TURN, 1) if registry.find(task).turns else length


def texts_of(task: str, n: int, share: int) -> int:
    """How many texts it takes to ask for n strings at least."""
    found = registry.find(task)
    return -(-n // (found.share_of(share) * found.n_expected))


def plans(args) -> list:
    """What to measure, the first length first; tasks that need equally many texts are together."""
    chosen = [Setup.parse(name) for name in args.setup] if args.setup else setups(args.budget)
    out = []
    for length in args.length:

        def what(task, length=length):
            return texts_of(task, args.strings, args.share), units(task, length)

        for (n_texts, n), tasks in groupby(sorted(args.task, key=what), what):
            common = dict(lengths=[n], n_turns=n, n_texts=n_texts, share=args.share, seed=SEED)
            out.append(retrieval.Plan(list(tasks), chosen, **common))
    return out


# --- what the rows say ---


def scores(rows: list, length: int) -> dict:
    """{setup: {task: {text: score}}} of the rows of one length."""
    out = {}
    for row in rows:
        if row["task"] in TASKS and row["length"] == units(row["task"], length):
            out.setdefault(row["setup"], {}).setdefault(row["task"], {})[row["text"]] = row["score"]
    return out


def table(found: dict, names: list) -> str:
    """Share of the expected strings in the answers, in percent: a line for each task, a column for each setup."""
    lines = [["task", *(f"`{name}`" for name in names)]]
    for task in TASKS:
        if any(task in found[name] for name in names):
            lines.append([f"`{task}`", *(cell(list(found[name][task].values())) if task in found[name] else "" for name in names)])
    head, *rest = ("| " + " | ".join(line) + " |\n" for line in lines)
    return head + "|---|" + "---:|" * len(names) + "\n" + "".join(rest)


def compare(found: dict, name: str) -> dict:
    """{task: (score, that of full+recall, that of full)} on the texts that all three have read, without the reworded questions."""
    out = {}
    for task in TASKS:
        three = [found.get(one, {}).get(task, {}) for one in (name, "full+recall", "full")]
        texts = set.intersection(*map(set, three))
        if texts and task != REWORDED:
            out[task] = tuple(mean(by_text[text] for text in texts) for by_text in three)
    return out


def where_same(rows: list, name: str) -> str:
    """What a setup answers where the same came back as with full+recall, for which all of the text counts as gone."""
    asked = {name: {}, "full+recall": {}}
    for row in rows:
        if row["setup"] in asked and row["task"] != REWORDED:
            asked[row["setup"]][row["task"], row["text"]] = row["items"]
    pairs = {}  # task -> [(score, that of full+recall, whether the same came back)]
    for (task, text), items in asked[name].items():
        for own, most in zip(items, asked["full+recall"].get((task, text), [])):
            pairs.setdefault(task, []).append((own["score"], most["score"], own["recalled"] == most["recalled"]))
    same = [[pair for pair in found if pair[2]] for found in pairs.values()]
    if not any(same):
        return ""
    share = mean(len(one) / len(found) for one, found in zip(same, pairs.values()))
    got, most = (mean(mean(pair[i] for pair in one) for one in same if one) for i in range(2))
    return (
        f"With `{name}` the same comes back as with `full+recall` for {100 * share:.0f} % of the questions; of these it answers "
        f"{100 * got:.0f} %, `full+recall` {100 * most:.0f} %"
    )


def verdict(found: dict, name: str) -> str:
    """One sentence on a setup with recall."""
    by_task = compare(found, name)
    if not by_task:
        return f"`{name}`: not compared, as there are no rows of `full` and `full+recall` on the same texts"
    got, most, alone = (mean(three[i] for three in by_task.values()) for i in range(3))
    share = f" ({100 * got / most:.0f} % of that)" if most else ""

    def those(is_one, i):
        found = [f"`{task}` ({100 * three[0]:.0f} against {100 * three[i]:.0f})" for task, three in by_task.items() if is_one(*three)]
        return ", ".join(found) or "none"

    return (
        f"`{name}` answers {100 * got:.0f} %, `full+recall` {100 * most:.0f} %{share}, `full` {100 * alone:.0f} %: mean over "
        f"{len(by_task)} tasks, on texts that all three have read. "
        f"Less than {100 * ENOUGH:.0f} % of `full+recall`: {those(lambda own, most, _: own < ENOUGH * most, 1)}. "
        f"Not above `full`: {those(lambda own, _, alone: own <= alone, 2)}"
    )


def took(rows: list) -> str:
    """How long it took to find what comes back."""
    seconds = sorted(item["t_recall"] for row in rows for item in row["items"] if "t_recall" in item)
    if not seconds:
        return ""
    most = seconds[int(0.95 * len(seconds))]
    return f"To find what comes back took {1e3 * median(seconds):.1f} ms in the median, {1e3 * most:.1f} ms or less in 95 %"


def document_part(rows: list, lengths: list) -> str:
    """The tables of all lengths, each with a sentence for each setup with recall."""
    parts = []
    for length in lengths:
        found = scores(rows, length)
        budgets = sorted({row["budget"] for row in rows if row["budget"]})
        names = [setup.name for setup in setups(budgets) if setup.name in found]
        if not names:
            continue
        here = [row for row in rows if row["length"] == units(row["task"], length)]
        n_asked = {}
        for row in here:
            cell_of = (row["task"], row["setup"])
            n_asked[cell_of] = n_asked.get(cell_of, 0) + sum(len(item["expected"]) for item in row["items"])
        counts = sorted({min(n_asked.values()), max(n_asked.values())})
        devices = ", ".join(sorted({row["device"] for row in here}))
        with_recall = [name for name in names if "+recall" in name and name != "full+recall"]
        said = [say for name in with_recall for say in (verdict(found, name), where_same(here, name))] + [took(here)]
        asked = f"{' to '.join(map(str, counts))} strings asked for a cell, on {devices}"
        sentences = "".join(f"- {one}.\n" for one in said if one)
        parts.append(f"{length:,} tokens, {asked}:\n\n{table(found, names)}\n{sentences}")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=models.DEMO, help="a GGUF file, or demo (default: %(default)s)")
    parser.add_argument("--length", nargs="+", type=int, default=LENGTHS, help="tokens of the texts (default: 4096 32768 131072)")
    parser.add_argument("--budget", nargs="+", type=int, default=[512, 1024], help="budgets in tokens (default: 512 1024)")
    parser.add_argument("--setup", nargs="+", help="these setups alone (default: full, and those of --budget)")
    parser.add_argument("--task", nargs="+", default=TASKS, choices=TASKS, help="tasks (default: all)")
    parser.add_argument("--strings", type=int, default=100, help="strings asked for in each cell, at least (default: %(default)s)")
    parser.add_argument("--share", type=int, default=10, help="questions about one text, where a task has so many (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: the cores that it may use)")
    parser.add_argument("--gpu-layers", type=int, default=None, help="layers on the GPU, -1: all (default: all in a build with a GPU)")
    parser.add_argument("--rows", type=Path, default=ROOT / "docs" / "results" / "recall" / "answers.jsonl", help="where the rows are kept")
    parser.add_argument("--document", type=Path, help="only write the tables of the rows into this file")
    args = parser.parse_args()

    if args.document:
        write_part(args.document, document_part(Store(args.rows).rows("retrieval"), args.length), BEGIN, END)
        return 0

    args.rows.parent.mkdir(parents=True, exist_ok=True)
    store = Store(args.rows)
    with Engine(models.resolve(args.model), n_threads=args.threads, n_gpu_layers=args.gpu_layers) as engine:
        for plan in plans(args):
            for row in retrieval.run(engine, plan, store):
                told = f"{row['task']:16} {row['n_tokens']:7,} tokens  text {row['text']:3}  {row['setup']:24} {row['score']:.2f}"
                print(told, flush=True)
    rows = store.rows("retrieval")
    found = {length: scores(rows, length) for length in args.length}
    print("\n" + document_part(rows, args.length))
    print(json.dumps({length: {name: compare(found[length], name) for name in found[length]} for length in found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
