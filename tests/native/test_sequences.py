"""Several sequences in one context: each has a budget of its own, and none sees what happens to another."""

import ctypes

import llama_cpp
import numpy as np
import pytest
import tiny_archs
import tiny_models
from sequences import same

POLICIES = ["capkv", "capkv-ref"]


def put(c, data, seq):
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    assert llama_cpp.llama_state_seq_set_data(c.ctx, buffer, len(data), seq) == len(data)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_eviction_leaves_the_other_sequences_as_they_were(make_sequences, policy):
    c = make_sequences(policy=policy)
    c.read(150, 0, 1, 2)
    before = {s: c.save(s) for s in (0, 2)}
    assert c.compress(1) == 150 - 64
    assert {s: c.save(s) for s in (0, 2)} == before
    assert [c.stats(s).n_evictions for s in range(3)] == [0, 1, 0]
    assert [c.stats(s).n_used for s in range(3)] == [150, 64, 150]

    alone = make_sequences(policy=policy)
    alone.read(150, 0, 1, 2)
    for a, b in zip(c.read(5, 0, 2), alone.read(5, 0, 2)):
        np.testing.assert_array_equal(a, b)


def test_a_batch_of_several_sequences_evicts_only_the_full_one(make_sequences):
    c = make_sequences()
    c.read(250, 0)
    c.read(40, 1)
    before = c.save(1)
    c.read(8, 0, 1)
    assert [c.stats(s).n_evictions for s in range(3)] == [1, 0, 0]
    assert c.pos_max(0) == 257 and c.pos_max(1) == 47
    assert c.rm(1, 40, -1) and len(c.save(1)) == len(before)
    c.read(600, 0, 1, 2)
    for s in range(3):
        for pos in c.held(s):
            assert pos[:4].tolist() == [0, 1, 2, 3] and pos[-1] == c.pos_max(s)
    assert c.stats(-1).n_evictions == sum(c.stats(s).n_evictions for s in range(3)) >= 6
    assert c.stats(-1).n_used == sum(c.stats(s).n_used for s in range(3))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("length", [100, 500])
def test_a_copy_goes_on_as_its_source_would(make_sequences, policy, length):
    c = make_sequences(policy=policy)
    c.read(length, 0)
    c.read(70, 1)
    c.cp(0, 1)
    assert same(c.held(0), c.held(1)) and c.pos_min(1) == c.pos_min(0)
    a, b = c.read(60, 0, 1, seed=7)
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert c.compress(0) == c.compress(1) > 0
    assert same(c.held(0), c.held(1))
    held = c.held(0)
    c.read(300, 1, seed=8)
    assert same(c.held(0), held) and not same(c.held(1), held)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("then", ["the source goes", "the source is compressed", "the copy is compressed"])
def test_a_copy_is_whole_whatever_happens_before_the_next_batch(make_sequences, policy, then):
    """llama.cpp copies the data of a sequence only when the next batch comes."""
    c, plain = make_sequences(policy=policy), make_sequences(policy=policy)
    for one in (c, plain):
        one.read(200, 0)
        one.cp(0, 1)
    if then == "the source goes":
        assert c.rm(0, -1, -1)
    if then == "the source is compressed":
        assert c.compress(0) == 200 - 64
    if then == "the copy is compressed":
        assert c.compress(1) == 200 - 64
        plain.read(1, 2)  # lets the copy happen
        assert plain.compress(1) == 200 - 64
    np.testing.assert_array_equal(c.read(5, 1)[0], plain.read(5, 1)[0])
    c.compress(1), plain.compress(1)
    assert same(c.held(1), plain.held(1))


@pytest.mark.parametrize("policy", POLICIES)
def test_states_are_of_what_was_copied_whatever_comes_before_the_next_batch(make_sequences, policy):
    c = make_sequences(policy=policy)
    c.read(200, 0)
    c.read(150, 1, 2)
    data = {s: c.save(s) for s in range(3)}

    def tensors(state):  # they come last, and after them 8 bytes of a checksum; before them are ids of sequences
        return state[-100_000:-8]

    c.cp(0, 1)
    assert tensors(c.save(1)) == tensors(data[0]) != tensors(data[1])
    c.cp(2, 1)
    put(c, data[0], 1)
    c.cp(0, 2)
    put(c, data[1], 0)
    assert c.decode([(0, 150, 5)]) == 0
    assert tensors(c.save(1)) == tensors(c.save(2)) == tensors(data[0])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_copy_that_is_dropped_leaves_nothing_behind(make_sequences, policy):
    c, fresh = make_sequences(policy=policy), make_sequences(policy=policy)
    c.read(200, 0)
    c.cp(0, 1)
    assert c.rm(1, -1, -1)
    for one in (c, fresh):
        one.read(150, 1)
        one.compress(1)
    assert same(c.held(1), fresh.held(1))


def test_a_part_of_a_sequence_is_copied_where_that_is_possible(make_sequences):
    c = make_sequences()
    c.read(150, 0)
    c.cp(0, 1, 0, 100)
    assert (c.pos_min(1), c.pos_max(1)) == (0, 99)
    c.cp(0, 2, -1, 150)
    assert c.pos_max(2) == 149
    want = make_sequences()
    want.read(100, 0)
    np.testing.assert_allclose(c.read(1, 1, seed=0)[0], want.read(1, 0)[0], atol=1e-4)

    c.compress(0)
    c.cp(0, 1, 0, 145)  # the tail begins at 134
    assert c.pos_max(1) == 144 and same(c.held(1), [pos[:-5] for pos in c.held(0)])
    before = c.save(1)
    for p0, p1 in ((0, 100), (10, -1), (136, 140), (5, 5)):
        c.cp(0, 1, p0, p1)
        assert c.save(1) == before


def test_keep_drops_the_other_sequences(make_sequences):
    c = make_sequences()
    c.read(300, 0, 1, 2)
    held = c.held(1)
    llama_cpp.llama_memory_seq_keep(c.memory, 1)
    assert [c.stats(s).n_used > 0 for s in range(3)] == [False, True, False]
    assert same(c.held(1), held)
    c.read(20, 0, 1, 2)


def test_positions_cannot_be_shifted(make_sequences):
    c = make_sequences()
    c.read(300, 0, 1)
    before = [c.save(s) for s in range(2)]
    assert not llama_cpp.llama_memory_can_shift(c.memory)
    llama_cpp.llama_memory_seq_add(c.memory, 0, 290, -1, 5)
    llama_cpp.llama_memory_seq_add(c.memory, 0, 0, -1, -2)
    llama_cpp.llama_memory_seq_div(c.memory, 1, 0, -1, 2)
    assert [c.save(s) for s in range(2)] == before
    c.read(20, 0, 1)


def test_removals_reach_only_what_is_exact(make_sequences):
    c = make_sequences()
    c.read(100, 1, 2)
    c.read(300, 0)
    before = [c.save(s) for s in range(3)]
    tail = c.pos_min(0)
    assert tail == c.stats(0).pos_tail > 0
    for seq in (0, -1):  # -1: one sequence refuses, so none is touched
        for p0, p1 in ((0, 50), (50, 60), (tail - 1, -1), (1, -1)):
            assert not c.rm(seq, p0, p1)
    assert [c.save(s) for s in range(3)] == before
    assert c.rm(1, 20, 40) and c.stats(1).n_used == 80
    assert c.rm(-1, 95, 98) is False
    assert c.rm(-1, 290, -1) and [c.pos_max(s) for s in range(3)] == [289, 99, 99]
    assert c.rm(-1, -1, -1) and [c.stats(s).n_used for s in range(3)] == [0, 0, 0]
    assert [c.pos_max(s) for s in range(3)] == [-1, -1, -1]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_whole_tail_can_go_and_the_sequence_goes_on(make_sequences, policy):
    c = make_sequences(policy=policy)
    c.read(150, 0)
    c.compress(0)
    tail = c.stats(0).pos_tail
    held = c.held(0)
    assert c.rm(0, tail, -1)
    assert (c.pos_min(0), c.pos_max(0)) == (tail, tail - 1)
    assert same(c.held(0), [pos[:-16] for pos in held])
    c.read(300, 0)
    assert all(pos[-1] == tail + 299 for pos in c.held(0))


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_clear_empties_all_sequences(make_sequences, policy, data):
    c, fresh = make_sequences(policy=policy), make_sequences(policy=policy)
    c.read(300, 0, 1)
    c.cp(0, 2)
    llama_cpp.llama_memory_clear(c.memory, data)
    assert c.stats(-1).n_used == c.stats(-1).n_evicted == 0
    assert [c.pos_max(s) for s in range(3)] == [-1, -1, -1]
    for one in (c, fresh):
        one.read(150, 0, 1, 2)
        for s in range(3):
            one.compress(s)
    assert all(same(c.held(s), fresh.held(s)) for s in range(3))


def test_a_token_of_several_sequences_is_refused_and_nothing_changes(make_sequences):
    c = make_sequences()
    c.read(300, 0, 1)
    before = [c.save(s) for s in range(2)]
    assert c.decode([((0, 1), 300, 5)]) != 0
    assert [c.save(s) for s in range(2)] == before
    c.read(20, 0, 1)


def test_a_unified_cache_becomes_one_of_streams(make_sequences):
    c = make_sequences(kv_unified=True, n_ctx_seq=1024)
    c.read(400, 0, 1)
    assert llama_cpp.llama_n_ctx(c.ctx) == 3 * 1024
    assert [c.stats(s).n_evictions > 0 for s in range(3)] == [True, True, False]


def test_a_state_moves_to_another_sequence(make_sequences):
    c = make_sequences()
    c.read(300, 0)
    c.read(80, 1)
    data = c.save(0)
    put(c, data, 2)
    assert same(c.held(0), c.held(2))
    a, b = c.read(100, 0, 2, seed=3)
    np.testing.assert_allclose(a, b, atol=1e-4)
    c.compress(0), c.compress(2)
    assert same(c.held(0), c.held(2))


@pytest.mark.parametrize("seq", [3, -2, 1000])
def test_a_sequence_that_is_not_there_is_an_error_that_says_so(make_sequences, seq):
    c = make_sequences()
    with pytest.raises(ValueError, match=f"seq_id = {seq}: allowed is 0 to 2"):
        c.compress(seq)


MEMORIES = {"gemma3": tiny_models.write_gemma3, "lfm2": tiny_archs.write_lfm2, "jamba": tiny_archs.write_jamba}


@pytest.mark.parametrize("arch", MEMORIES)
def test_memories_of_two_modules(make_sequences, tmp_path, arch):
    """Windows beside full attention, recurrent layers beside attention: both modules do the same or nothing."""
    path = tmp_path / "model.gguf"
    MEMORIES[arch](path)
    c = make_sequences(path)
    c.read(300, 0, 1)
    assert all(np.isfinite(x).all() for x in c.read(300, 0, 1))
    assert [c.stats(s).n_evictions >= 2 for s in range(3)] == [True, True, False]

    before = [c.save(s) for s in range(2)]
    c.cp(0, 2)
    a, b = c.read(20, 0, 2, seed=5)
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert same(c.held(0), c.held(2)) and c.save(1) == before[1]
    c.compress(0), c.compress(2)
    assert same(c.held(0), c.held(2))

    before = [c.save(s) for s in range(3)]
    llama_cpp.llama_memory_seq_add(c.memory, 0, 0, -1, 3)
    llama_cpp.llama_memory_seq_div(c.memory, 1, 0, -1, 2)
    c.cp(0, 1, 0, 300)  # reaches into what was evicted
    assert not c.rm(1, 100, 200) and not c.rm(-1, 100, -1)
    assert [c.save(s) for s in range(3)] == before

    end = c.pos_max(0)
    c.cp(0, 1, 0, end + 1)  # all of it
    assert c.pos_max(1) == end and same(c.held(1), c.held(0))
    c.cp(0, 2, 0, end - 2)  # less its end: only where every module can take it back
    assert c.pos_max(2) == (end - 3 if arch == "gemma3" else -1)

    llama_cpp.llama_memory_seq_keep(c.memory, 1)
    assert [c.pos_max(s) for s in range(3)] == [-1, end, -1]
    assert all(np.isfinite(x).all() for x in c.read(300, 0, 1, 2))
