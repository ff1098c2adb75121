"""The scores that can be read of a cache are those by which its next eviction chooses."""

import numpy as np
import pytest
import tiny_archs
from driving import text
from selection import check_kept

from capkv_edge import policies

BUDGET, SINK, RECENT = 64, 4, 16


def evict(context, seq=0):
    """(scores, positions before, positions after) of an eviction of one sequence, [n_heads, n] each."""
    scores, before = context.kv.scores(seq), np.array(context.held(seq))
    assert context.kv.compress(seq_id=seq) == before.shape[1] - BUDGET
    return scores, before, np.array(context.held(seq))


@pytest.mark.parametrize("policy", policies())
def test_the_highest_scores_stay(make_context, policy):
    context = make_context(policy, sink=SINK, recent=RECENT)
    context.read(text(90))
    for _ in range(2):  # the entries of the second eviction are other ones in each head
        scores, before, after = evict(context)
        assert scores.shape == before.shape == (4, 90) and scores.dtype == np.float32
        for score, pos, kept in zip(scores, before, after):
            assert check_kept(kept, pos, score, BUDGET, SINK, RECENT, near=0) == 0
        context.read(text(26, seed=1))


def test_looking_changes_nothing(make_context):
    looked, other = make_context(), make_context()
    for context in (looked, other):
        context.read(text(200))
    assert (looked.kv.scores() == looked.kv.scores()).all()
    assert looked.positions() == other.positions()
    assert looked.go_on(60) == other.go_on(60)  # over an eviction
    assert looked.kv.stats().n_evictions == other.kv.stats().n_evictions == 1


def test_each_sequence_has_its_own(make_context):
    context = make_context()
    context.read(text(80), 0)
    context.read(text(70, seed=1), 1)
    first, second = context.kv.scores(0), context.kv.scores(1)
    assert first.shape == (4, 80) and second.shape == (4, 70)
    assert context.kv.scores(2).shape == (4, 0)
    assert (context.kv.scores(0) == first).all()


def test_a_copy_that_waits_for_the_next_batch_has_scores(make_context):
    context = make_context("knorm")
    context.read(text(80))
    context.cp(0, 3)
    assert (context.kv.scores(3) == context.kv.scores(0)).all()


def test_layers_of_their_own_head_counts(make_sequences, tmp_path):
    tiny_archs.write_uneven(tmp_path / "uneven.gguf")
    context = make_sequences(tmp_path / "uneven.gguf", n_seq=1, policy="knorm")
    context.read(BUDGET + 20, 0)
    heads = context.kv.heads
    assert len({context.kv.n_heads(layer) for layer, _ in heads}) > 1
    assert context.kv.scores().shape == (len(heads), context.kv.stats().n_used)
