"""The comparison that docs/results.md shows, in three sizes: full (hours on a laptop), second (two hours, for a further model) and
short (minutes, for tests)."""

import time
from dataclasses import dataclass
from pathlib import Path

from . import options, terminal
from .measure import continuation, fidelity, retrieval, speed
from .run.rows import Store
from .tasks import corpora, registry


SEEDS = (2, 3)  #: of the sample of queries, beside 1, which all setups have


@dataclass(frozen=True)
class Reading:
    """One reading of the documents: the setups, as the commands' options name them, and the contexts that are scored."""

    contexts: tuple
    policies: str
    budgets: str
    more: str = ""  #: further setups
    sampled: str = ""  #: setups that are measured with the seeds in SEEDS too, to show what the sample does

    @property
    def setups(self) -> list:
        more = [one for setup in options.named_setups(self.sampled) for one in setup.with_seeds(SEEDS)]
        return [*options.setups(self.policies, self.budgets, "f16", self.more), *more]


@dataclass(frozen=True)
class Asking:
    """Tasks, the length of their texts, and the setups. A dialogue has a number of turns in place of a length."""

    tasks: str
    length: int
    n_texts: int
    setups: list

    @property
    def names(self) -> list:
        """The tasks, without those that need a file."""
        return registry.expand(options.split(self.tasks), {})[0]


@dataclass(frozen=True)
class Continuing:
    """Texts that are continued for n_gen tokens."""

    corpus: str
    n_docs: int
    n_prompt: int
    n_gen: int
    setups: str


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    readings: tuple  #: of (corpus, readings), whose documents have the length of the longest context
    n_docs: int  #: of each
    tasks: tuple  #: of Asking
    continued: tuple  #: of Continuing
    depths: tuple  #: at which the speed is measured
    rounds: int
    speed_setups: str
    stride: int = 4
    seed: int = 1


_MAIN = "capkv,expected,snapkv,streaming"

#: of a text on which no option of a policy was chosen, and of documents that are four times as long
_HELD_OUT = (
    Reading(
        (2048,),
        "all",
        "128,512,1024",
        "q8_0;q4_0;full,batch=32;capkv@=q4_0;expected@=q4_0;snapkv@=q4_0;streaming@=q4_0;capkv@512:q8_0;capkv@1024:q8_0",
        sampled="capkv@512",
    ),
    Reading((2048,), _MAIN, "256"),
)
_HELD_OUT_LONG = (Reading((4096, 8192), _MAIN, "512"),)
#: of a text on which options of policies were chosen
_CHOSEN_ON = (
    Reading((2048,), "all", "512", "q8_0;q4_0;full,batch=32"),
    Reading((2048,), _MAIN, "128,1024"),
)
#: of a held-out text by another model, to see whether what was chosen with one holds with it
_SECOND = (
    Reading((2048,), f"{_MAIN},tova,h2o,keydiff,knorm,random", "512,128", "q8_0;full,batch=32"),
    Reading((2048,), _MAIN, "1024"),
)


#: of three needles, which most texts are measured with
_ASKED = Reading(
    (),
    _MAIN,
    "256,1024",
    "random@1024;shift@1024;q4_0;capkv@256+oracle;capkv@1024+oracle;capkv@256+recall;capkv@1024+recall",
    sampled="capkv@1024",
)


SIZES = {
    "full": Size(
        readings=(
            ("python-code", _HELD_OUT),
            ("python-code", _HELD_OUT_LONG),
            ("essays", _CHOSEN_ON),
        ),
        n_docs=8,
        tasks=(
            Asking("needles_3", 2048, 50, _ASKED.setups),
            Asking("needles_1", 2048, 20, Reading((), _MAIN, "256,1024", "capkv@1024:q8_0;capkv@256+oracle").setups),
            Asking("needles_10", 2048, 20, Reading((), _MAIN, "1024", "capkv@1024+oracle").setups),  # they do not fit into 256
            Asking("ruler", 2048, 6, Reading((), _MAIN, "1024", "capkv@1024+recall").setups),
            Asking("dialogues", 20, 10, Reading((), f"{_MAIN},shift", "512", "capkv@512+pin;capkv@512+recall").setups),
        ),
        continued=(Continuing("python-code", 6, 1024, 4096, "full;q8_0;capkv@512;streaming@512;shift@512"),),
        depths=(0, 4096, 16384, 32768),
        rounds=5,
        speed_setups="full;q8_0;shift@1024;capkv@1024;capkv@512;capkv@1024:q8_0",
    ),
    "second": Size(
        readings=(("python-code", _SECOND),),
        n_docs=8,
        tasks=(Asking("needles_3", 2048, 20, Reading((), _MAIN, "1024", "random@1024;capkv@1024+oracle;capkv@1024+recall").setups),),
        continued=(),
        depths=(0, 8192),
        rounds=5,
        speed_setups="full;q8_0;capkv@1024;capkv@1024:q8_0",
    ),
    "short": Size(
        readings=(("python-docs", (Reading((1536,), "capkv", "128,512", "q8_0"),)),),
        n_docs=1,
        tasks=(Asking("niah_single_1", 512, 2, Reading((), "capkv", "128").setups),),
        continued=(Continuing("python-docs", 1, 128, 64, "full;capkv@64,headroom=64"),),
        depths=(0, 512),
        rounds=1,
        speed_setups="full;capkv@256",
    ),
}


def _fidelity(engine, size: Size, store, progress):
    # one document of each in turn, and on it all readings: a run that is stopped has measured all setups on equal texts
    found = []
    for corpus, readings in size.readings:
        n_ctx = max(max(reading.contexts) for reading in readings)
        found.append([(one, readings) for one in corpora.documents(engine, corpus, size.n_docs, n_ctx)])
    work = [one for together in zip(*found) for one in together]
    done, total = 0, sum(_cost(reading) for _, readings in work for reading in readings)
    for document, readings in work:
        with fidelity.bases() as bases:
            for reading in readings:
                cost = _cost(reading)
                plan = fidelity.Plan([document], reading.setups, list(reading.contexts), size.stride, size.seed)

                def say(n, of, label, done=done, cost=cost):
                    progress(done + cost * n / max(of, 1), total, label)

                yield from fidelity.run(engine, plan, store, say, bases)
                done += cost


def _cost(reading: Reading) -> int:
    return max(reading.contexts) * len(reading.setups)


def _retrieval(engine, size: Size, store, progress):
    for asking in size.tasks:
        plan = retrieval.Plan(
            tasks=asking.names,
            setups=asking.setups,
            lengths=[asking.length],
            n_turns=asking.length,
            n_texts=asking.n_texts,
            share=None,
            seed=size.seed,
            min_base=0.1,
        )
        yield from retrieval.run(engine, plan, store, progress)


def _continuation(engine, size: Size, store, progress):
    for one in size.continued:
        documents = corpora.documents(engine, one.corpus, one.n_docs, one.n_prompt + one.n_gen)
        plan = continuation.Plan(documents, options.named_setups(one.setups), one.n_prompt, one.n_gen, size.seed)
        yield from continuation.run(engine, plan, store, progress)


def _speed(engine, size: Size, store, progress):
    n = {} if size.rounds > 1 else dict(n_prompt=64, n_gen=8)
    machine = dict(n_threads=engine.n_threads, n_gpu_layers=engine.n_gpu_layers)
    plan = speed.Plan(options.named_setups(size.speed_setups), list(size.depths), **n, rounds=size.rounds, **machine)
    return speed.run(engine.path, plan, store, progress)


#: the kinds that are measured, in this order: (engine, size, store, progress) -> rows
PARTS = {"fidelity": _fidelity, "retrieval": _retrieval, "continuation": _continuation, "speed": _speed}


def _until(rows, end: float):
    for row in rows:
        yield row
        if time.monotonic() > end:
            return


def rows_of(folder: Path) -> list:
    """All rows that the folder has."""
    return Store(folder / "rows.jsonl").rows()


def run(
    make_engine, folder: Path, size: str = "full", only=(), limit: float | None = None, keeps_old: bool = False
) -> bool:
    """Measure what the folder's rows.jsonl does not have yet; False when it was interrupted.

    Args:
        make_engine: a function that loads the model; called once the other arguments are known to be right.
        size: one of SIZES.
        only: names in PARTS; empty is all of them.
        limit: seconds after which nothing more is measured.
        keeps_old: as Store's.

    Raises:
        ValueError: no such size or part.
        ImportError: matplotlib, which the plots need, is missing.
    """
    for name, value, allowed in (("size", size, SIZES), *(("only", part, PARTS) for part in only)):
        if value not in allowed:
            raise ValueError(f"--{name} = {value}: allowed is {', '.join(allowed)}")
    terminal.check("md", folder)
    folder.mkdir(parents=True, exist_ok=True)
    store, end = Store(folder / "rows.jsonl", keeps_old), time.monotonic() + (limit or float("inf"))
    with make_engine() as engine:
        terminal.say_device(engine.cache_device, engine.n_threads)
        for name, part in PARTS.items():
            if (only and name not in only) or time.monotonic() > end:
                continue
            with terminal.bar(name) as progress:
                if not terminal.collect(_until(part(engine, SIZES[size], store, progress), end), store, store.path):
                    return False
    return True
