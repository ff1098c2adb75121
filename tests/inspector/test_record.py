"""What is recorded while a text is read is what the cache holds, eviction by eviction."""

import numpy as np
import pytest
from driving import BUDGET, text

from capkv_edge.inspector import scores
from capkv_edge.inspector.record import record_session, record_text

OPTIONS = dict(BUDGET, kv_sink=4, kv_recent=16, kv_headroom=32)
TOKENS = text(900)


@pytest.fixture
def recorded(make_llama, tiny_llama):
    """(Llama, Record) of TOKENS."""
    llm = make_llama(tiny_llama, **OPTIONS)
    return llm, record_text(llm, TOKENS)


def held_by(record, moment=None):
    """Of each head the positions that the record says were held right after an eviction; None: at the end."""
    if moment is None:
        return [np.flatnonzero(row == 0) for row in record.gone]
    n_read = record.evictions[moment - 1].n_read
    return [np.flatnonzero((row[:n_read] == 0) | (row[:n_read] > moment)) for row in record.gone]


def same(positions, others):
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(positions, others, strict=True))


def test_the_record_is_the_cache_at_the_end(recorded, held):
    llm, record = recorded
    assert same(held_by(record), held(llm))
    assert record.tokens.tolist() == TOKENS and record.stats.n_evictions == len(record.evictions) > 3


def test_each_moment_is_what_was_held_then(recorded, make_llama, tiny_llama, held):
    record = recorded[1]
    for moment, eviction in enumerate(record.evictions, 1):
        other = make_llama(tiny_llama, **OPTIONS)
        other.eval(TOKENS[: eviction.n_read])
        assert other.kv_stats().n_used == eviction.n_used
        assert other.compress() == eviction.n_dropped
        assert same(held_by(record, moment), held(other))
        assert other.kv_stats().capacity == pytest.approx(eviction.capacity, rel=1e-5)
        assert other.kv_stats().capacity_layers == pytest.approx(eviction.capacity_layers, rel=1e-5)


def test_scores_are_counted_of_the_entries_that_could_go(recorded):
    record = recorded[1]
    for eviction in record.evictions:
        summary = eviction.scores
        assert (summary.dropped.sum(axis=1) == eviction.n_dropped).all()
        assert (summary.kept.sum(axis=1) == 64 - 4 - 16).all()
        assert np.isfinite(summary.edge).all() and (summary.low < summary.high).all()
        edge_bin = np.clip((summary.edge - summary.low) / (summary.high - summary.low) * scores.N_BINS, 0, scores.N_BINS - 1)
        for h, edge in enumerate(edge_bin.astype(int)):
            assert summary.kept[h, :edge].sum() == 0 and summary.dropped[h, edge + 1 :].sum() == 0
    n_over = record.stats.n_used - 64
    assert n_over > 0 and (record.scores.dropped.sum(axis=1) == n_over).all(), "what an eviction at the end would do"


def test_pins_are_no_candidates(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **OPTIONS)
    llm.pin(20, 30)
    record = record_text(llm, TOKENS)
    assert record.pins == [(20, 30)] and (record.gone[:, 20:30] == 0).all()
    assert all((one.scores.kept.sum(axis=1) == 64 - 4 - 16 - 10).all() for one in record.evictions)


def test_a_text_that_fits_loses_nothing(make_llama, tiny_llama):
    record = record_text(make_llama(tiny_llama, **OPTIONS), TOKENS[:60])
    assert record.evictions == [] and not record.gone.any() and record.scores.dropped.sum() == 0


def test_a_session_says_the_same_of_its_end(recorded, make_llama, tiny_llama, tmp_path, held):
    llm, record = recorded
    llm.save_session(tmp_path / "talk.session")
    other = make_llama(tiny_llama, **OPTIONS)
    other.load_session(tmp_path / "talk.session")
    loaded = record_session(other)
    assert ((loaded.gone > 0) == (record.gone > 0)).all() and set(np.unique(loaded.gone)) == {0, 1}
    assert loaded.evictions == [] and loaded.tokens.tolist() == TOKENS
    assert np.array_equal(loaded.scores.dropped, record.scores.dropped)


def test_a_text_beyond_an_explicit_end_is_refused(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=256, **OPTIONS)
    with pytest.raises(ValueError, match="900 tokens, and the context ends at 256: --tokens 256"):
        record_text(llm, TOKENS)


def test_a_histogram_of_known_scores():
    positions = np.arange(200)[None]
    values = np.linspace(-1, 1, 200, dtype=np.float32)[None]
    everything = lambda pos: pos >= 100  # noqa: E731
    summary = scores.summarize(positions, values, everything, kept=[np.arange(150, 200)])
    assert not summary.is_log and summary.kept.sum() == summary.dropped.sum() == 50
    assert summary.edge[0] == values[0, 150] and summary.kept[0, : scores.N_BINS // 2 - 1].sum() == 0
    wide = np.geomspace(1e-4, 1, 200, dtype=np.float32)[None]
    assert not scores.summarize(positions, wide, lambda pos: pos >= 150).is_log, "the candidates spread by a factor of ten alone"
    summary = scores.summarize(positions, wide, lambda pos: pos >= 0, kept=[np.arange(150, 200)])
    assert summary.is_log and summary.edge[0] == pytest.approx(np.log10(wide[0, 150]), abs=1e-5)
    assert (summary.low[0], summary.high[0]) == pytest.approx((-3.96, -0.04), abs=0.01)
    wide[0, 0] = np.nan
    assert scores.summarize(positions, wide, lambda pos: pos >= 0, n_dropped=3).dropped.sum() == 3
    assert scores.summarize(positions, wide, lambda pos: pos < 0) is None
