"""Fidelity: how far the next token's distribution is from the full cache's, while a real text streams in (teacher-forced).

Each setup reads a document once. In each context, the tokens of its last half are scored, as far as they come after the first
eviction: [max(n_ctx / 2, cells), n_ctx). So the contexts of one document share one reading, and no token counts twice.
"""

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..run.provenance import engine_fields, setup_fields
from ..run.setups import Setup
from ..tasks.corpora import Document
from . import divergence


@dataclass
class Plan:
    """What to measure. Contexts are in tokens, ascending; every stride-th token is scored."""

    documents: list
    setups: list  #: of Setup; the full cache is the base and always runs
    contexts: list = field(default_factory=lambda: [2048])
    stride: int = 1
    seed: int = 1
    score_from: int = 0  #: no token before it is scored: for setups of different size that are to be scored on the same tokens

    @property
    def n_ctx(self) -> int:
        """The longest context: tokens that are read of each document."""
        return max(self.contexts)

    def window(self, setup: Setup, n_ctx: int) -> tuple:
        """(first, end) of the scored tokens of a context; empty where no token of its last half comes after the first eviction."""
        first = max(n_ctx // 2, setup.n_cells, self.score_from)
        first += -first % self.stride
        return first, max(first, n_ctx - 1)


class Base:
    """Log probabilities of the full cache for one document: float32 [n, n_vocab].

    They are in a temporary file, since at 32k tokens and a vocabulary of 150k they take 20 GB."""

    def __init__(self, engine, plan: Plan, document: Document):
        self.indices = np.arange(min(plan.contexts) // 2 // plan.stride * plan.stride, plan.n_ctx - 1, plan.stride)
        self._file = tempfile.TemporaryFile()
        self.rows = np.memmap(self._file, np.float32, "w+", shape=(len(self.indices), engine.n_vocab))
        with engine.open(Setup(), plan.n_ctx) as stream:
            stream.read(document.tokens[: plan.n_ctx], self.indices, self._keep)

    def _keep(self, indices, rows) -> None:
        at = np.searchsorted(self.indices, indices)
        self.rows[at] = divergence.log_softmax(rows)

    def close(self) -> None:
        """Free the file."""
        del self.rows
        self._file.close()


@contextmanager
def bases():
    """A dict {(document's hash, stride): Base} for several runs, closed at the end."""
    kept = {}
    try:
        yield kept
    finally:
        for base in kept.values():
            base.close()


def measure(engine, plan: Plan, document: Document, setup: Setup, base: Base) -> dict:
    """{n_ctx: per-token figures} of one setup on one document, and Stream.memory() at the end."""
    setup = setup.for_context(plan.n_ctx, engine.bytes_per_token)
    found = []

    def use(indices, rows):
        at = np.searchsorted(base.indices, indices)
        found.append(divergence.compare(base.rows[at], divergence.log_softmax(rows), document.tokens[indices + 1]))

    first = min(plan.window(setup, n_ctx)[0] for n_ctx in plan.contexts)
    scored = base.indices[(base.indices >= first) & (base.indices < plan.n_ctx - 1)]
    with engine.open(setup, plan.n_ctx) as stream:
        stream.read(document.tokens[: plan.n_ctx], scored, use)
        memory = stream.memory()
    tokens = {name: np.concatenate([part[name] for part in found]) for name in found[0]} if found else {}
    out = {}
    for n_ctx in plan.contexts:
        low, high = plan.window(setup, n_ctx)
        taken = (scored >= low) & (scored < high)
        if taken.any():
            out[n_ctx] = {name: values[taken] for name, values in tokens.items()}
    return out, memory


def row_of(engine, plan: Plan, document: Document, setup: Setup, n_ctx: int) -> dict:
    """The row of a measurement without its figures: what was measured, and with what."""
    resolved = setup.for_context(plan.n_ctx, engine.bytes_per_token)
    return dict(
        kind="fidelity",
        corpus=document.corpus,
        doc=document.name,
        doc_hash=document.hash,
        n_ctx=n_ctx,
        score_from=plan.window(resolved, n_ctx)[0],
        stride=plan.stride,
        n_read=plan.n_ctx,
        seed=plan.seed,
        **setup_fields(engine, setup, plan.n_ctx),
    )


def run(engine, plan: Plan, store, progress=lambda done, total, label: None, bases=None):
    """Measure what is not in the store yet and yield its rows, one per (document, setup, context); document after document.

    Args:
        progress: called with (readings done, all readings, what is being measured); a reading is a document read by a setup.
        bases: as bases() gives it: keeps the full cache's log probabilities of each document for further runs, whose contexts
            have to lie within those of the first run.

    Raises:
        ValueError: a setup that the model cannot have.
        RuntimeError: llama.cpp could not decode a batch.
    """
    setups = [setup for setup in plan.setups if setup != Setup()]
    total, n = len(plan.documents) * (len(setups) + 1), 0
    common = engine_fields(engine)
    for document in plan.documents:
        todo = []
        for setup in setups:
            contexts = [plan.n_ctx] if isinstance(setup.budget, str) else plan.contexts  # bytes of a full cache of the whole text
            rows = [row_of(engine, plan, document, setup, n_ctx) for n_ctx in contexts]
            rows = [row for row in rows if row["score_from"] < row["n_ctx"] - 1 and not store.done(row)]
            todo += [(setup, rows)] if rows else []
        n += 1 + len(setups) - len(todo)
        if not todo:
            progress(n, total, document.name)
            continue
        progress(n - 1, total, f"{document.name}: full")
        key = (document.hash, plan.stride)
        base = (bases or {}).get(key) or Base(engine, plan, document)
        if bases is not None:
            bases[key] = base
        try:
            for setup, rows in todo:
                progress(n, total, f"{document.name}: {setup.name}")
                tokens, memory = measure(engine, plan, document, setup, base)
                for row in rows:
                    figures = divergence.figures(tokens[row["n_ctx"]])
                    row = {**common, **row, **figures, **_memory(engine, setup, memory, row["n_ctx"])}
                    store.add(row)
                    yield row
                n += 1
        finally:
            if bases is None:
                base.close()
    progress(total, total, "")


def _memory(engine, setup: Setup, memory: dict, n_ctx: int) -> dict:
    full = round(engine.bytes_per_token("f16") * n_ctx)
    if setup.policy is None:  # a full cache grows with the text, so its bytes are those at n_ctx
        held = round(engine.bytes_per_token(setup.type) * n_ctx)
        return dict(bytes_kv=held, bytes_obs=0, bytes_total=held, bytes_full=full, n_cells=n_ctx)
    return {**{name: memory[name] for name in ("bytes_kv", "bytes_obs", "bytes_total", "n_cells")}, "bytes_full": full}
