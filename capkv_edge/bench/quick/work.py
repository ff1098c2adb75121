"""A quick run: its documents, its steps within the time limit, and how it goes on where another run was stopped."""

import time
from dataclasses import dataclass, field, replace

import numpy as np

from ..kinds import FIDELITY, SPEED
from ..measure import fidelity, speed
from ..run.provenance import ORIGIN, engine_fields
from ..tasks import corpora
from . import cost as costs
from . import steps
from .steps import LEAST_CTX, MOST_DOCS, N_DOCS, Step

PIECE, MOST_PIECES = 4000, 25  # characters: of a longer text the number of tokens is estimated from so many pieces of it
OVERTIME = 0.25  # of the time limit: a step that was estimated too short is broken off then
#: what all rows of a page share; a row that differs is of another run
SAME = ("model_hash", "seed", *ORIGIN)


@dataclass(frozen=True)
class Job:
    """What is asked for. `n_ctx` None: as long as the time allows."""

    text: str
    seconds: float
    n_ctx: int | None = None
    seed: int = 1


@dataclass
class State:
    """What is measured, and what is left to do."""

    n_ctx: int
    documents: list  #: of corpora.Document, in the order in which they are measured
    first: int  #: first scored token
    cost: costs.Cost
    done: list = field(default_factory=list)  #: Steps that the rows have
    todo: list = field(default_factory=list)  #: all others


class Model:
    """The engine, which is loaded when it is first used, and may be closed in between. `load_s` is what loading took."""

    def __init__(self, make_engine):
        self._make, self._engine, self.load_s = make_engine, None, 0.0

    @property
    def engine(self):
        if self._engine is None:
            start = time.perf_counter()
            self._engine = self._make()
            self.load_s = time.perf_counter() - start
        return self._engine

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---------------------------------------------------------------------------------------------------------------------
# documents


def count_tokens(engine, text: str) -> int:
    """How many tokens a text has, about: it is counted in pieces, since some vocabularies take long for a long text.

    Raises:
        OSError, ValueError: as corpora.load(); ValueError also where it has less than LEAST_CTX.
    """
    whole = "".join(words + "\n\n" for _, words in corpora.load(text))
    starts = range(0, len(whole), max(PIECE, len(whole) // MOST_PIECES))
    pieces = [whole[at : at + PIECE] for at in starts]
    n = sum(len(engine.tokenize(piece)) for piece in pieces) * len(whole) // sum(map(len, pieces))
    if n < LEAST_CTX:
        raise ValueError(
            f"--text = {text}: it has {n:,} tokens ({len(whole):,} characters); needed are {LEAST_CTX:,} for one document, and {N_DOCS} "
            "times as many for intervals"
        )
    return n


def documents_of(engine, text: str, n_ctx: int, n_tokens: int) -> list:
    """Up to MOST_DOCS Documents of n_ctx tokens, in an order in which any first few are spread over the text.

    Raises:
        ValueError: the text has less than n_ctx tokens.
    """
    for n in range(max(1, min(MOST_DOCS, n_tokens // n_ctx)), 0, -1):
        try:
            found = corpora.documents(engine, text, n, n_ctx)
        except ValueError:  # tokens are not spread evenly over the text: one of its parts has too few
            if n == 1:
                raise
            continue
        return [found[i] for i in np.argsort([i * 0.6180339887 % 1 for i in range(n)], kind="stable")]
    raise AssertionError("the loop returns or raises")


# ---------------------------------------------------------------------------------------------------------------------
# going on


def check_rows(rows: list, common: dict, corpus: str, where) -> int | None:
    """The length in tokens of the documents that the rows are of; None where there are none.

    Args:
        common: the fields in SAME as they are now.
        where: the file, for the message.

    Raises:
        ValueError: a row is of another model, text, machine, build or seed.
    """
    advice = f"give another --folder, or remove {where}"
    lengths = set()
    for row in rows:
        for name in SAME:
            if row.get(name) != common.get(name):
                raise ValueError(f"{where} has rows with {name} = {row.get(name)}, and now it is {common.get(name)}: {advice}")
        if row["kind"] == FIDELITY.name:
            if row["corpus"] != corpus:
                raise ValueError(f"{where} has rows of the text {row['corpus']}, and not of {corpus}: {advice}")
            lengths.add(row["n_ctx"])
    if len(lengths) > 1:
        raise ValueError(f"{where} has rows of documents of {', '.join(map(str, sorted(lengths)))} tokens: {advice}")
    return lengths.pop() if lengths else None


def is_done(step: Step, rows: list, state: State) -> bool:
    """Whether the rows have all of a step."""
    names = {setup.name for setup in step.setups(state.n_ctx)}
    if step.what == "speed":
        return names <= {row["setup"] for row in rows if row["kind"] == SPEED.name and row["round"] == step.i + 1}
    digest = state.documents[step.i].hash
    return names <= {row["setup"] for row in rows if row["kind"] == FIDELITY.name and row["doc_hash"] == digest}


def prepare(model: Model, job: Job, store) -> State:
    """What there is to do: the first batches are timed, the length is chosen or is that of the rows, the text is cut.

    Raises:
        OSError, ValueError: a text that is missing or too short, rows of another run, a time limit that is too short, a length that
            is not allowed, or a model that cannot have a budget.
    """
    engine = model.engine
    engine.bytes_per_token("q8_0")  # raises where the model cannot have a budget
    n_tokens = count_tokens(engine, job.text)
    corpus = corpora.documents(engine, job.text, 1, LEAST_CTX)[0]
    rows = store.rows()
    known = check_rows(rows, engine_fields(engine) | dict(seed=job.seed), corpus.corpus, store.path)
    allowed = steps.lengths(engine.n_ctx_train, n_tokens)
    if known and job.n_ctx and known != job.n_ctx:
        raise ValueError(f"--ctx = {job.n_ctx}: {store.path} has documents of {known} tokens: give another --folder")
    n_ctx = known or job.n_ctx
    if n_ctx:
        if not LEAST_CTX <= n_ctx <= min(engine.n_ctx_train, n_tokens):
            raise ValueError(
                f"--ctx = {n_ctx}: allowed is {LEAST_CTX} to {min(engine.n_ctx_train, n_tokens)}: the model was trained for "
                f"{engine.n_ctx_train} tokens, the text has {n_tokens}"
            )
        allowed = [n_ctx]
    cost = costs.probe(engine, corpus.tokens, model.load_s, steps.PROBE_SHARE * job.seconds)
    if known is None:
        n_ctx = steps.choose_length(allowed, cost, job.seconds, lambda n: min(MOST_DOCS, n_tokens // n))
    state = State(n_ctx, documents_of(engine, job.text, n_ctx, n_tokens), steps.first_scored(n_ctx), cost)
    hashes = {one.hash for one in state.documents}
    if any(row["doc_hash"] not in hashes for row in store.rows(FIDELITY.name)):
        raise ValueError(f"{store.path} has rows of a text that has changed since: give another --folder, or remove it")
    for step in steps.steps(len(state.documents)):
        (state.done if is_done(step, rows, state) else state.todo).append(step)
    return state


# ---------------------------------------------------------------------------------------------------------------------
# measuring


def count(found: list) -> str:
    """How many documents and rounds the Steps are, in words."""
    words = {"core": "{} document{}", "more": "{} document{} in f16", "speed": "{} round{} of speed"}
    counts = {what: sum(step.what == what for step in found) for what in words}
    return ", ".join(words[what].format(n, "" if n == 1 else "s") for what, n in counts.items() if n) or "nothing"


def describe(state: State, seconds: float) -> str:
    """What the next `seconds` will be used for, in words."""
    fits = steps.fitting(state.todo, state.n_ctx, state.cost, seconds) or state.todo[:1]
    taken = sum(step.seconds(state.n_ctx, state.cost) for step in fits)
    n_caches, n_timed = len(steps.core(state.n_ctx)) + 1, len(steps.timed(state.n_ctx))
    caches = f"{n_caches} caches for a document of {state.n_ctx:,} tokens, {n_timed} for a round"
    return f"{count(fits)}: about {max(taken / 60, 0.1):.1f} minutes ({caches})"


def _measure(step: Step, state: State, job: Job, model: Model, store, progress):
    """The generator of a step's rows."""
    if step.what != "speed":
        document = state.documents[step.i]
        setups = [setup if setup.kv_seed is None else replace(setup, seed=job.seed) for setup in step.setups(state.n_ctx)]
        plan = fidelity.Plan([document], setups, [state.n_ctx], steps.stride(state.n_ctx), job.seed, score_from=state.first)
        return fidelity.run(model.engine, plan, store, progress)
    engine = model.engine
    plan = speed.Plan(
        step.setups(state.n_ctx),
        [state.n_ctx],
        n_prompt=0,
        n_gen=steps.N_GEN,
        rounds=step.i + 1,
        n_batch=steps.CHAT_BATCH,
        n_threads=engine.n_threads,
        n_gpu_layers=engine.n_gpu_layers,
        seed=job.seed,
        reads_all=True,
    )
    path = engine.path
    if engine.n_gpu_layers:  # a GPU may have no room for the model twice
        model.close()
    return speed.run(path, plan, store, progress)


def run(state: State, job: Job, model: Model, store, end: float, progress=lambda done, total, label: None, now=time.monotonic):
    """Measure the steps that are left, one after the other, as long as the next one fits; yield the rows.

    Args:
        end: when the time is over, as `now` gives it. The first document and the first round are measured even so.
        progress: called with (seconds of steps done, of all that fit, what is being measured), as estimated.

    Raises:
        ValueError, RuntimeError: as fidelity.run() and speed.run().
    """
    factor = dict.fromkeys(("core", "more", "speed"), 1.0)
    total = sum(step.seconds(state.n_ctx, state.cost) for step in steps.fitting(state.todo, state.n_ctx, state.cost, end - now()))
    spent = 0.0
    while state.todo:
        step = state.todo[0]
        expected = step.seconds(state.n_ctx, state.cost)
        if (step.i > 0 or step.what == "more") and now() + factor[step.what] * expected > end:
            return
        start, begun = now(), spent

        def say(done, of, label, begun=begun, expected=expected):
            progress(begun + expected * done / max(of, 1), max(total, begun + expected), label)

        n_rows = 0
        for row in _measure(step, state, job, model, store, say):
            yield row
            n_rows += 1
            if now() > end + OVERTIME * job.seconds:
                return
        if n_rows == len(step.setups(state.n_ctx)):  # no part of it was there before
            factor[step.what] = (now() - start) / expected
            if step.what == "core":
                factor["more"] = factor["core"]
        spent += expected
        state.done.append(state.todo.pop(0))
