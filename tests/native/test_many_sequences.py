"""Many sequences in one context, and one: the graph of a batch, and what a context of one sequence refuses."""

import llama_cpp
import pytest


@pytest.mark.parametrize("policy", ["expected", "capkv"])
@pytest.mark.parametrize("n_seq", [5, 8, 64])
def test_what_is_observed_of_many_sequences_has_its_place_in_the_graph(make_sequences, policy, n_seq):
    c = make_sequences(n_seq=n_seq, policy=policy, n_batch=64, n_ctx_seq=512)
    c.read(300, 0, n_seq - 1)
    assert c.stats(0).n_evictions == c.stats(n_seq - 1).n_evictions == 1


@pytest.mark.parametrize("n_seq", [1, 16])
def test_decoding_reuses_its_graph_although_it_samples_queries_now_and_then(make_sequences, n_seq):
    c = make_sequences(n_seq=n_seq, n_batch=64, headroom=512)
    for s in range(n_seq):
        c.read(60 + 7 * s, s)
    n, before = 150, llama_cpp.llama_perf_context(c.ctx).n_reused
    for _ in range(n):
        assert c.decode([(s, c.pos_max(s) + 1, 5) for s in range(n_seq)]) == 0
    assert c.stats(-1).n_evictions == 0
    assert (llama_cpp.llama_perf_context(c.ctx).n_reused - before) / n > 0.9


def test_a_context_of_one_sequence_is_no_place_to_park_a_copy(make_sequences):
    c = make_sequences(n_seq=1)
    c.read(200, 0)
    before = c.save(0)
    c.cp(0, 1)
    assert c.save(0) == before
    assert c.rm(0, -1, -1) and c.pos_max(0) == c.pos_max(1) == -1
