"""LongBench on the benchmark's own files: whole prompts are read through each setup, then answered greedily and scored.

As in the benchmark's evaluation: prompts that do not fit are cut in the middle; prompts of examples and of code do not go through
the chat template; of an answer to a prompt of examples the first line counts; the score is the best over an item's answers.

Mode "aware" reads the whole prompt and then evicts down to the budget. Mode "blind" evicts where the question begins, before it
is known, or at the end of the text where there is no question. In both the last token of the prompt is read after the eviction,
so that the whole answer is computed from what was kept.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...template import around_last
from ..run.provenance import engine_fields, setup_fields
from ..tasks.longbench import TASKS, Task
from . import longbench_metrics as metrics

MODES = ("blind", "aware")
_PROMPTS, _MAX = "dataset2prompt.json", "dataset2maxlen.json"
_N_STEP = 16  # tokens generated between two looks at whether the first line is complete


@dataclass(frozen=True)
class Dataset:
    """A file of items. `prompts` says where the prompt is from: "built-in", or "dataset2prompt.json" and a digest of the prompt."""

    name: str
    path: Path
    task: Task
    prompts: str

    def items(self, n: int | None = None, seed: int = 1) -> list:
        """The items, or a seeded sample of n of them, in the order of the file.

        Raises:
            ValueError: a line is not an item; names file and line.
        """
        found = []
        with self.path.open(encoding="utf-8") as file:
            for i, line in enumerate(file):
                if line.strip():
                    found.append(_parse(line, f"{self.path}, line {i + 1}"))
        if n is not None and n < len(found):
            chosen = np.random.default_rng(seed).choice(len(found), n, replace=False)
            found = [found[i] for i in sorted(chosen)]
        return found


def _parse(line: str, where: str) -> dict:
    try:
        item = json.loads(line)
        ok = all(isinstance(item[name], str) for name in ("context", "input"))
        ok = ok and isinstance(item["answers"], list) and all(isinstance(answer, str) for answer in item["answers"])
    except (ValueError, TypeError, KeyError):
        ok = False
    if not ok:
        raise ValueError(f"{where}: not an item of LongBench (fields input, context, answers)")
    digest = hashlib.blake2b(line.strip().encode(), digest_size=12).hexdigest()
    return {**item, "_id": str(item.get("_id") or digest), "all_classes": item.get("all_classes") or []}


def _config(folder: Path, name: str, kind: type) -> dict:
    for path in (folder / name, folder / "config" / name):
        if path.exists():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as err:
                raise ValueError(f"{path}: not JSON ({err})") from None
            if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
                raise ValueError(f"{path}: not a table of {'a text' if kind is str else 'a number'} for each data set")
            return values
    return {}


def load(folder, names: list | None = None) -> list:
    """Datasets of a folder of NAME.jsonl files: those named, or all of LongBench's that are there (also LongBench-E's NAME_e).

    dataset2prompt.json and dataset2maxlen.json in the folder, or in its folder config, override what is built in.

    Raises:
        OSError: no such folder, or no file of a data set that was named.
        ValueError: a name that LongBench does not have, a folder without data sets, or a file that is not a table.
        ImportError: a metric needs a package that is not installed; the message has the command.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise NotADirectoryError(f"data = {folder}: not a folder of LongBench's files")
    prompts, lengths = _config(folder, _PROMPTS, str), _config(folder, _MAX, int)
    there = {path.stem: path for place in (folder, folder / "data") for path in sorted(place.glob("*.jsonl"))}
    if names is None:
        names = [name for name in there if name.removesuffix("_e") in TASKS]
    if not names:
        raise ValueError(f"data = {folder}: there is no data set of LongBench in it (NAME.jsonl)")
    out = []
    for name in names:
        base = name.removesuffix("_e")
        if base not in TASKS:
            raise ValueError(f"dataset = {name}: allowed are {', '.join(TASKS)}, each also with _e behind it")
        if name not in there:
            raise FileNotFoundError(f"dataset = {name}: there is no {name}.jsonl in {folder}")
        task, whose = TASKS[base], "built-in"
        if base in prompts:
            digest = hashlib.blake2b(prompts[base].encode(), digest_size=4).hexdigest()
            task, whose = replace(task, template=prompts[base]), f"{_PROMPTS} {digest}"
        metrics.check(task.metric)
        out.append(Dataset(name, there[name], replace(task, n_max=lengths.get(base, task.n_max)), whose))
    return out


# --- prompts ---


@dataclass(frozen=True)
class Prompt:
    """Token ids. `n_context` of them come before the question; `n_cut` more were cut out of the middle."""

    tokens: list
    n_context: int
    n_cut: int


def _texts(dataset: Dataset, item: dict) -> tuple:
    """The prompt, and the part of it before the question (up to the end of the text, where there is no question)."""
    template = dataset.task.template
    context, question = template.find("{context}"), template.find("{input}")
    if context < 0:
        raise ValueError(f"{dataset.prompts}: the prompt of {dataset.name} has no {{context}}")
    if -1 < question < context:
        raise ValueError(f"{dataset.prompts}: the prompt of {dataset.name} has {{input}} before {{context}}")
    at = question if question >= 0 else context + len("{context}")
    fields = dict(context=item["context"], input=item["input"])
    try:
        before = template[:at].format_map(fields)
        return before + template[at:].format_map(fields), before
    except (KeyError, ValueError, IndexError) as err:
        raise ValueError(f"{dataset.prompts}: the prompt of {dataset.name} has a field that is not there: {err}") from None


def _n_same(a: list, b: list) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def make_prompt(engine, dataset: Dataset, item: dict, n_ctx: int) -> Prompt:
    """The prompt of an item, cut so that it and its answer fit in n_ctx tokens.

    Raises:
        ValueError: n_ctx leaves no room for a prompt, or the template is wrong.
    """
    whole, before = _texts(dataset, item)
    head, tail = [], []
    if dataset.task.chat:
        head, tail = (engine.tokenize(part, special=True) for part in around_last(engine.chat))
    if engine.bos is not None and head[:1] != [engine.bos]:
        head = [engine.bos, *head]
    tokens = engine.tokenize(whole)
    n_before = _n_same(tokens, engine.tokenize(before))  # tokens without any of the question
    n_room = n_ctx - len(head) - len(tail) - dataset.task.n_max
    if n_room < 2:
        raise ValueError(f"n_ctx = {n_ctx}: allowed is {n_ctx - n_room + 2} or more for {dataset.name}")
    n_cut = 0
    if len(tokens) > n_room:
        half = n_room // 2
        n_cut = len(tokens) - 2 * half
        tokens = tokens[:half] + tokens[-half:]
        n_before = min(n_before, half) + max(0, n_before - half - n_cut)
    return Prompt(head + tokens + tail, len(head) + n_before, n_cut)


# --- answers ---


def _generate(engine, stream, task: Task) -> str:
    out = []
    while True:
        asked = min(_N_STEP if task.first_line else task.n_max, task.n_max - len(out))
        part = stream.generate(asked)
        out += part
        text = engine.detokenize(out)
        if len(part) < asked or len(out) == task.n_max or "\n" in text.lstrip("\n"):
            return text
        stream.read(out[-1:])


def _answer(engine, task: Task, setup, prompt: Prompt, mode: str, n_ctx: int) -> tuple:
    """(the answer's text, Stream.memory() at its end)."""
    last = len(prompt.tokens) - 1
    at = min(prompt.n_context, last) if mode == "blind" else last
    with engine.open(setup, n_ctx) as stream:
        stream.read(prompt.tokens[:at])
        stream.compress()
        stream.read(prompt.tokens[at:])
        return _generate(engine, stream, task), stream.memory()


@dataclass
class Plan:
    """What to measure. n_items: a sample of so many of each data set, drawn with `seed`; None: all."""

    datasets: list
    setups: list
    n_ctx: int
    modes: tuple = MODES
    n_items: int | None = None
    seed: int = 1


def _row(engine, plan: Plan, dataset: Dataset, item: dict, setup, mode: str) -> dict:
    return dict(
        kind="longbench",
        dataset=dataset.name,
        item=item["_id"],
        length=item.get("length"),
        mode=mode,
        metric=dataset.task.metric,
        prompts=dataset.prompts,
        n_max=dataset.task.n_max,
        n_ctx=plan.n_ctx,
        seed=plan.seed,
        **setup_fields(engine, setup, plan.n_ctx),
    )


def run(engine, plan: Plan, store, progress=lambda done, total, label: None):
    """Answer what is not in the store yet and yield its rows, one per (item, setup, mode); item after item, all setups in turn.

    Where nothing is evicted on demand (a full cache, a context shift), both modes share one answer.

    Args:
        progress: called with (answers done, all answers, what is being answered).

    Raises:
        ValueError: an unknown mode, a wrong item or prompt, or a setup that the model cannot have.
        RuntimeError: llama.cpp could not decode a batch.
    """
    for mode in plan.modes:
        if mode not in MODES:
            raise ValueError(f"mode = {mode}: allowed are {', '.join(MODES)}")
    work = [(dataset, item) for dataset in plan.datasets for item in dataset.items(plan.n_items, plan.seed)]
    total, done, common = len(work) * len(plan.setups) * len(plan.modes), 0, engine_fields(engine)
    for dataset, item in work:
        prompt = None
        for setup in plan.setups:
            shared = None
            for mode in plan.modes:
                progress(done, total, f"{dataset.name} {item['_id'][:8]}: {setup.name}, {mode}")
                done += 1
                row = _row(engine, plan, dataset, item, setup, mode)
                if store.done(row):
                    continue
                prompt = prompt or make_prompt(engine, dataset, item, plan.n_ctx)
                answer, memory = shared or _answer(engine, dataset.task, setup, prompt, mode, plan.n_ctx)
                shared = None if setup.on else (answer, memory)
                row |= dict(answer=answer, score=_score(dataset.task, item, answer))
                row |= dict(n_prompt=len(prompt.tokens), n_cut=prompt.n_cut, **memory)
                row = {**common, **row}
                store.add(row)
                yield row
    progress(total, total, "")


def _score(task: Task, item: dict, answer: str) -> float:
    counted = metrics.first_line(answer) if task.first_line else answer
    return metrics.score(task.metric, counted, item["answers"], item["all_classes"])
