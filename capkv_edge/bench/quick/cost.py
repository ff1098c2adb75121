"""What measurements will take, estimated from the speed of the first batches."""

import time
from dataclasses import dataclass

import numpy as np

from ..measure import divergence
from ..run.setups import Setup

PROBE_BATCH, PROBE_CTX = 128, 1024  # tokens read at once, and at most in all
N_DECODED = 4  # tokens read one by one
N_SCORED = 32  # rows of logits that are compared
MARGIN = 1.2  # for what is not estimated: opening contexts, evictions, logits of scored tokens
START_S, MOST_LOAD_S = 1.5, 3.0  # a process for one case of speed: Python's start; the model, whose file the memory has by then


@dataclass(frozen=True)
class Cost:
    """Seconds that a machine takes for a model."""

    read: dict  #: cache type -> (seconds per token at depth 0, what each token in the cache adds to that)
    decode_s: float  #: of one token that is read alone
    score_s: float  #: to compare the logits of one token
    load_s: float  #: to load the model

    def reading(self, setup: Setup, n_ctx: int, n_scored: int = 0) -> float:
        """Seconds in which a setup reads n_ctx tokens, of which n_scored are scored."""
        base, more = self.read["f16" if setup.type == "f16" else "q8_0"]
        # a full cache holds half of the document on average
        held = min(n_ctx / 2, setup.n_cells) if setup.on else n_ctx / 2
        return MARGIN * (n_ctx * (base + more * held) + n_scored * self.score_s)

    def case(self, setup: Setup, n_ctx: int, n_gen: int) -> float:
        """Seconds in which a process of its own measures the speed of a setup at a depth of n_ctx tokens."""
        load_s = START_S + min(self.load_s, MOST_LOAD_S)
        return load_s + self.reading(setup, n_ctx) + MARGIN * n_gen * self.decode_s

    def rate(self, kind: str) -> float:
        """Tokens per second at depth 0 with a cache of this type."""
        return 1 / self.read[kind][0]

    def scaled(self, factor: float) -> "Cost":
        """The same for a machine that takes so many times as long."""
        read = {kind: (factor * base, factor * more) for kind, (base, more) in self.read.items()}
        return Cost(read, factor * self.decode_s, factor * self.score_s, factor * self.load_s)


def _read(engine, kind: str, tokens, seconds: float) -> tuple:
    """(seconds per token at depth 0, what each token in the cache adds), from batches read within about `seconds`; and those of one
    token that is read alone."""
    depths, taken = [], []
    with engine.open(Setup(type=kind), PROBE_CTX, PROBE_BATCH) as stream:
        stream.read(tokens[:PROBE_BATCH])  # the first batch reads the weights from the disk
        stream.last()
        begun = time.perf_counter()
        while stream.n_tokens + PROBE_BATCH <= PROBE_CTX - N_DECODED and (not taken or time.perf_counter() - begun < seconds):
            at, start = stream.n_tokens, time.perf_counter()
            stream.read(tokens[at : at + PROBE_BATCH])
            stream.last()
            depths.append(at + PROBE_BATCH / 2)
            taken.append((time.perf_counter() - start) / PROBE_BATCH)
        alone = []
        for i in range(stream.n_tokens, stream.n_tokens + N_DECODED):
            start = time.perf_counter()
            stream.read(tokens[i : i + 1])
            stream.last()
            alone.append(time.perf_counter() - start)
    return *line(depths, taken), min(alone)


def line(depths: list, taken: list) -> tuple:
    """(seconds at depth 0, seconds that each token in the cache adds) out of the seconds per token at depths.

    The slope is the median of those between any two batches (Theil and Sen), so that a batch during which the machine did something
    else does not tilt it; and no token makes the next one faster. The level is that of the fastest batch: what was slow in the first
    seconds need not stay so, and a run that turns out slower measures fewer documents.
    """
    slopes = [(taken[j] - taken[i]) / (depths[j] - depths[i]) for i in range(len(taken)) for j in range(i + 1, len(taken))]
    slope = max(0.0, float(np.median(slopes))) if len(taken) > 2 else 0.0
    return max(float(np.min(np.array(taken) - slope * np.array(depths))), min(taken) / 2), slope


def _compare(n_vocab: int) -> float:
    """Seconds to compare the logits of one token with the full cache's."""
    rows = np.random.default_rng(1).normal(size=(N_SCORED, n_vocab)).astype(np.float32)
    start = time.perf_counter()
    divergence.compare(divergence.log_softmax(rows), divergence.log_softmax(rows), np.zeros(N_SCORED, dtype=np.int64))
    return (time.perf_counter() - start) / N_SCORED


def probe(engine, tokens, load_s: float, seconds: float) -> Cost:
    """The Cost of an engine's model.

    Args:
        tokens: int32 [at least PROBE_CTX], the begin-of-sequence token first where the model has one.
        load_s: seconds that loading the model took.
        seconds: how long it may read for this, about.
    """
    found = {kind: _read(engine, kind, tokens, seconds / 2) for kind in ("f16", "q8_0")}
    read = {kind: (base, slope) for kind, (base, slope, _) in found.items()}
    return Cost(read, max(alone for _, _, alone in found.values()), _compare(engine.n_vocab), load_s)
