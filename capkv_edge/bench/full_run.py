"""The comparison that docs/results.md shows, in two sizes: full (hours on a laptop) and short (minutes, for tests)."""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import options, terminal
from .measure import fidelity, retrieval, speed
from .run.rows import Store
from .run.setups import Setup
from .tasks import corpora

PARTS = ("fidelity", "retrieval", "speed")


@dataclass(frozen=True)
class Reading:
    """One pass over the documents: setups as the options of the commands have them, and the contexts that are scored."""

    contexts: tuple
    policies: str
    budgets: str
    more: str = ""  #: further setups

    @property
    def setups(self) -> list:
        return options.setups(self.policies, self.budgets, "f16", self.more)


@dataclass(frozen=True)
class Size:
    """Arguments of the parts."""

    corpora: tuple
    n_docs: int  #: of each corpus
    readings: tuple
    tasks: dict  #: {task: (lengths, questions to a text)}
    task_setups: Reading
    n_items: int  #: questions of each task and length
    depths: tuple  #: of the speed
    rounds: int
    speed_setups: str
    stride: int = 4
    n_turns: int = 20
    seed: int = 1

    @property
    def n_ctx(self) -> int:
        """Tokens of a document."""
        return max(max(reading.contexts) for reading in self.readings)


SIZES = {
    "full": Size(
        corpora=("essays", "python-docs"),
        n_docs=8,
        readings=(  # the longest first: the full cache's reading serves the others
            Reading((2048, 4096, 8192), "all", "512", "capkv@1024;capkv@2048;snapkv@2048;streaming@2048"),
            Reading((2048, 4096), "all", "2048", "capkv@256"),
            Reading((2048,), "all", "128", "q8_0;q4_0;capkv@=q4_0;streaming@=q4_0"),
        ),
        tasks={"niah_single_2": ((2048, 4096), 10)},
        task_setups=Reading((), "all", "256,1024", "q4_0"),
        n_items=50,
        depths=(0, 4096),
        rounds=3,
        speed_setups="full;q8_0;shift@1024;streaming@1024;capkv@1024;capkv@512",
    ),
    "short": Size(
        corpora=("python-docs",),
        n_docs=1,
        readings=(Reading((1536,), "capkv", "128,512", "q8_0"),),
        tasks={"niah_single_1": ((512,), 2)},
        task_setups=Reading((), "capkv", "128"),
        n_items=2,
        depths=(0, 512),
        rounds=1,
        speed_setups="full;capkv@256",
    ),
}


def _fidelity(engine, size: Size, store, progress):
    # one document of each corpus in turn and all that is measured on it, so that a run that is cut short is balanced
    found = [corpora.documents(engine, corpus, size.n_docs, size.n_ctx) for corpus in size.corpora]
    documents = [document for together in zip(*found) for document in together]
    weights = [max(reading.contexts) * len(reading.setups) for reading in size.readings]
    done, total = 0, len(documents) * sum(weights)
    for document in documents:
        with fidelity.bases() as bases:
            for reading, weight in zip(size.readings, weights):
                plan = fidelity.Plan([document], reading.setups, list(reading.contexts), size.stride, size.seed)

                def say(n, of, label, done=done, weight=weight):
                    progress(done + weight * n / max(of, 1), total, label)

                yield from fidelity.run(engine, plan, store, say, bases)
                done += weight


def _retrieval(engine, size: Size, store, progress):
    for task, (lengths, share) in size.tasks.items():
        plan = retrieval.Plan(
            tasks=[task],
            setups=size.task_setups.setups,
            lengths=list(lengths),
            n_turns=size.n_turns,
            n_texts=-(-size.n_items // share),
            share=share,
            seed=size.seed,
            min_base=0.1,
        )
        yield from retrieval.run(engine, plan, store, progress)


def _speed(engine, size: Size, store, progress):
    setups = [Setup.parse(text) for text in options.split(size.speed_setups, ";")]
    n = dict(n_prompt=512, n_gen=64) if size.rounds > 1 else dict(n_prompt=64, n_gen=8)
    machine = dict(n_threads=engine.n_threads, n_gpu_layers=engine.n_gpu_layers)
    plan = speed.Plan(setups, list(size.depths), **n, rounds=size.rounds, n_batch=512, **machine)
    return speed.run(engine.path, plan, store, progress)


def _until(rows, end: float):
    for row in rows:
        yield row
        if time.monotonic() > end:
            return


def run(model, folder: Path, document, size: str, only: list, limit, threads, gpu_layers, make_engine) -> int:
    """Measure what the folder's rows.jsonl does not have yet; then write the plots, the page and the document's tables.

    Returns the exit status: 0, or 130 when the run was interrupted (all files are written from what there is).

    Raises:
        ValueError: no such size or part.
    """
    for name, value, allowed in (("size", size, SIZES), *(("only", part, PARTS) for part in only)):
        if value not in allowed:
            raise ValueError(f"--{name} = {value}: allowed is {', '.join(allowed)}")
    terminal.check("md", folder)
    folder.mkdir(parents=True, exist_ok=True)
    store, end = Store(folder / "rows.jsonl"), time.monotonic() + (limit or float("inf"))
    done = True
    with make_engine(model, threads, gpu_layers) as engine:
        terminal.start(engine.cache_device, engine.n_threads)
        for part, work in zip(PARTS, (_fidelity, _retrieval, _speed)):
            if only and part not in only or not done or time.monotonic() > end:
                continue
            with terminal.bar(part) as progress:
                done = terminal.collect(_until(work(engine, SIZES[size], store, progress), end), store, store.path)
    command = shlex.join(["capkv-bench", *sys.argv[1:]])
    terminal.finish(store.rows(), "md", folder, command)
    if document is not None:
        from .report.results import write

        write(document, store.rows(), folder)
    return 0 if done else 130
