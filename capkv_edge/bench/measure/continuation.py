"""Continuation: thousands of tokens after a beginning, those of the real text and those that the model writes itself.

The real ones are read (teacher-forced) and scored by their likelihood. The model's own are the likeliest at each step, except for
those that would end a reply, so that all setups write equally many; a text that goes in circles repeats its 4-grams.
"""

from dataclasses import dataclass

import numpy as np

from ..run.provenance import engine_fields, setup_fields
from ..run.setups import Setup
from ..tasks.corpora import Document
from .likelihood import log_likelihoods

N_GRAM = 4  # tokens of a piece that counts as repeated
LEAST = 16  # tokens of a beginning and of a continuation


@dataclass
class Plan:
    """What to measure: documents of n_prompt + n_gen tokens.

    Raises:
        ValueError: a number out of range; names the option, the value and what is allowed.
    """

    documents: list
    setups: list
    n_prompt: int = 1024  #: tokens of the beginning
    n_gen: int = 4096  #: tokens of a continuation
    seed: int = 1

    def __post_init__(self):
        for name in ("n_prompt", "n_gen"):
            if getattr(self, name) < LEAST:
                raise ValueError(f"{name} = {getattr(self, name)}: allowed is {LEAST} or more")

    @property
    def n_ctx(self) -> int:
        """Tokens of a document."""
        return self.n_prompt + self.n_gen


def share_repeated(tokens: list, n: int = N_GRAM) -> float:
    """The share of the pieces of n tokens that were there before, from 0 to 1."""
    pieces = list(zip(*(tokens[i:] for i in range(n))))
    return 1 - len(set(pieces)) / len(pieces)


def nll_of(stream, tokens, n_prompt: int) -> float:
    """Mean negative log probability, in nats, of the tokens from n_prompt on, int [n], which are read into an empty stream."""
    return -float(log_likelihoods(stream, tokens, n_prompt - 1, tokens[n_prompt:]).mean(dtype=np.float64))


def write(stream, n: int) -> list:
    """The n likeliest tokens after what was read, each but the last read in turn; none that ends a reply."""
    out = []
    while len(out) < n:
        row = stream.last().copy()
        while stream.engine.is_eog(token := int(row.argmax())):
            row[token] = -np.inf
        out.append(token)
        if len(out) < n:
            stream.read(out[-1:])
    return out


def measure(engine, plan: Plan, document: Document, setup: Setup) -> dict:
    """{nll, repeated, written: the beginning of the model's own text}, and Stream.memory() after the real continuation."""
    tokens = document.tokens[: plan.n_ctx]
    with engine.open(setup, plan.n_ctx) as stream:
        nll = nll_of(stream, tokens, plan.n_prompt)
        memory = stream.memory()
    with engine.open(setup, plan.n_ctx) as stream:
        stream.read(tokens[: plan.n_prompt])
        own = write(stream, plan.n_gen)
    return dict(nll=nll, repeated=share_repeated(own), written=engine.detokenize(own[:64]), **memory)


def run(engine, plan: Plan, store, progress=lambda done, total, label: None):
    """Measure what is not in the store yet and yield its rows, one per (document, setup); document after document.

    Args:
        progress: called with (documents done by a setup, all of them, what is being measured).

    Raises:
        ValueError: a setup that the model cannot have.
        RuntimeError: llama.cpp could not decode a batch.
    """
    common, done, total = engine_fields(engine), 0, len(plan.documents) * len(plan.setups)
    for document in plan.documents:
        for setup in plan.setups:
            progress(done, total, f"{document.name}: {setup.name}")
            row = dict(
                kind="continuation",
                corpus=document.corpus,
                doc=document.name,
                doc_hash=document.hash,
                n_prompt=plan.n_prompt,
                n_gen=plan.n_gen,
                n_ctx=plan.n_ctx,
                seed=plan.seed,
                **setup_fields(engine, setup, plan.n_ctx),
            )
            if not store.done(row):
                row = {**common, **row, **measure(engine, plan, document, setup)}
                store.add(row)
                yield row
            done += 1
    progress(total, total, "")
