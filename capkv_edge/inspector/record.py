"""What each KV head holds of a text, eviction by eviction, recorded while the text is read or taken from a saved session."""

from dataclasses import dataclass, field

import numpy as np

from ..kv import KvCache, KvStats
from .scores import ScoreSummary, summarize


@dataclass
class Eviction:
    """One eviction. Tokens are counts, times are milliseconds."""

    n_read: int  #: tokens read before it
    n_dropped: int  #: entries that each KV head dropped
    n_used: int  #: entries that each KV head held before it
    pos_tail: int  #: from this position on every head holds every token
    capacity: float  #: share of the capacity that it retained, over all layers
    capacity_layers: tuple  #: the same for each layer
    ms_score: float
    ms_select: float
    ms_compact: float
    scores: ScoreSummary | None  #: of the entries before it; None where they were not recorded


@dataclass
class Record:
    """All that is known of one cache."""

    heads: list  #: (layer, head) of every KV head that the budget governs
    tokens: np.ndarray  #: ids of the text, int32 [n_tokens]
    gone: np.ndarray  #: which eviction dropped a token, counted from 1; 0 = it is held: [n_heads, n_tokens]
    stats: KvStats  #: at the end
    evictions: list = field(default_factory=list)  #: in time; none for a session, whose evictions were before
    pins: list = field(default_factory=list)  #: (start, stop) of each range of pinned positions, at the end
    scores: ScoreSummary | None = None  #: of the entries at the end, and what an eviction would do to them


def record_text(llm, tokens, say=lambda n_done: None) -> Record:
    """Read tokens into an empty Llama with a budget, batch by batch, and record each eviction.

    Args:
        say: called with the number of tokens read, after each batch.

    Raises:
        ValueError: the text is longer than the context.
        RuntimeError: a batch could not be decoded.
    """
    n = len(tokens)
    if n > llm.n_ctx():
        raise ValueError(f"the text has {n:,} tokens, and the context ends at {llm.n_ctx():,}: --tokens {llm.n_ctx()} reads so many")
    kv = KvCache(llm.ctx, llm.kv_config)
    heads = kv.heads
    gone = np.zeros((len(heads), n), dtype=np.uint8)
    evictions, before = [], kv.stats()
    for start in range(0, n, llm.n_batch):
        batch = tokens[start : start + llm.n_batch]
        is_full = before.n_used + len(batch) > before.n_cells  # then this batch comes with an eviction
        entries = _entries(kv, heads) if is_full else None
        llm.eval(batch)
        now = kv.stats()
        if now.n_evictions > before.n_evictions:
            n_dropped = now.n_evicted - before.n_evicted
            evictions.append(_eviction(before, now, n_dropped, start))
            if len(evictions) == np.iinfo(gone.dtype).max:
                gone = gone.astype(np.uint32)
            _mark(kv, heads, gone[:, : start + len(batch)], len(evictions))
            if entries:
                kept = [kv.positions(*head) for head in heads]
                evictions[-1].scores = summarize(*entries, candidates=_candidates(llm, before, n_dropped), kept=kept)
        before = now
        say(start + len(batch))
    return _finish(llm, kv, heads, gone, evictions)


def record_session(llm) -> Record:
    """What a Llama holds whose session was loaded: which tokens, not when the others were dropped."""
    kv = KvCache(llm.ctx, llm.kv_config)
    heads = kv.heads
    gone = np.zeros((len(heads), llm.n_tokens), dtype=np.uint8)
    _mark(kv, heads, gone, 1)
    return _finish(llm, kv, heads, gone, [])


def _finish(llm, kv, heads, gone, evictions) -> Record:
    stats, pins = kv.stats(), kv.pins()
    scores = None
    if llm.n_tokens:
        n_over = max(stats.n_used - stats.config.budget, 0)
        scores = summarize(*_entries(kv, heads), candidates=_candidates(llm, stats, n_over), n_dropped=n_over)
    tokens = np.array(llm.input_ids[: llm.n_tokens], dtype=np.int32)
    return Record(heads, tokens, gone, stats, evictions, pins, scores)


def _entries(kv: KvCache, heads: list) -> tuple:
    """(positions, scores) of the entries of all heads, both [n_heads, n]."""
    return np.stack([kv.positions(*head) for head in heads]), kv.scores()


def _candidates(llm, stats: KvStats, n_dropped: int):
    """A function of positions [n_heads, n]: which entries an eviction may choose from, so not the sinks, the recent window and pins."""
    config, pins = stats.config, llm.pins

    def of(positions: np.ndarray) -> np.ndarray:
        n = positions.shape[1]
        n_recent = min(config.recent, n - n_dropped - config.sink)
        if stats.n_evicted:
            n_recent = min(n_recent, stats.n_tokens - stats.pos_tail)
        free = np.zeros(positions.shape, dtype=bool)
        free[:, config.sink : n - n_recent] = True
        for start, stop in pins:
            free &= (positions < start) | (positions >= stop)
        return free

    return of


def _eviction(before: KvStats, now: KvStats, n_dropped: int, n_read: int) -> Eviction:
    def ms(name: str) -> float:
        return (getattr(now, name) - getattr(before, name)) / 1000

    return Eviction(
        n_read=n_read,
        n_dropped=n_dropped,
        n_used=before.n_used,
        pos_tail=now.pos_tail,
        capacity=now.capacity,
        capacity_layers=now.capacity_layers,
        ms_score=ms("t_score_us"),
        ms_select=ms("t_select_us"),
        ms_compact=ms("t_compact_us"),
        scores=None,
    )


def _mark(kv: KvCache, heads: list, gone: np.ndarray, number: int) -> None:
    """Write the number of an eviction where a head holds a token no more, and has not been marked before. gone: [n_heads, n]."""
    for row, head in zip(gone, heads):
        held = np.zeros(len(row), dtype=bool)
        held[kv.positions(*head)] = True
        row[~held & (row == 0)] = number
