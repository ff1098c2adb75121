"""What native/ promises, seen through a context: bytes, exact copies, sequence operations."""

import ctypes
import struct

import llama_cpp
import numpy as np
import pytest
from tiny_models import write_gemma3, write_llama

from capkv_edge import policies

# as in ggml.h
CACHE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}


def text(n, seed=0):
    return np.random.default_rng(seed).integers(3, 259, n).tolist()


def state(llm):
    size = llama_cpp.llama_state_seq_get_size(llm.ctx, 0)
    buf = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(llm.ctx, buf, size, 0) == size
    return bytes(buf)


def k_rows(data, cache_type, n, n_embd_k=64):
    """Rows of the first layer's K in a saved state: [n] of bytes."""
    block, size = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}[cache_type]
    row = n_embd_k // block * size
    n_meta = struct.unpack_from("<Q", data, 25)[0]  # native/capkv-state-io.cpp: the tensors follow all the rest
    start = 65 + n_meta
    return [data[start + i * row : start + (i + 1) * row] for i in range(n)]


def rows_around_an_eviction(make_llama, model, kind):
    """A Llama that kept 256 of 500 tokens, and the first layer's K before and after."""
    llm = make_llama(model, n_ctx=2048, n_batch=256, kv_budget=256, type_k=kind, type_v=kind)
    llm.eval(text(500))
    before = k_rows(state(llm), kind, 500)
    assert llm.compress() == 500 - 256
    return llm, before, k_rows(state(llm), kind, 256)


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_sinks_and_tail_are_the_same_bytes_after_an_eviction(make_llama, tiny_llama, name):
    _, before, after = rows_around_an_eviction(make_llama, tiny_llama, CACHE_TYPES[name])
    assert after[:4] == before[:4]
    assert after[-64:] == before[-64:]


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_a_middle_cell_holds_the_key_of_its_position(make_llama, tiny_llama, name):
    llm, before, after = rows_around_an_eviction(make_llama, tiny_llama, CACHE_TYPES[name])
    for head in (0, 1):
        half = slice(head * len(before[0]) // 2, (head + 1) * len(before[0]) // 2)
        for cell, pos in enumerate(llm.kv_positions(0, head)):
            assert after[cell][half] == before[pos][half]


def test_the_heads_of_all_layers_choose_for_themselves(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=2048, n_batch=256, kv_budget=256)
    llm.eval(text(500))
    llm.compress()
    kept = {llm.kv_positions(il, head).tobytes() for il in (0, 1) for head in (0, 1)}
    assert len(kept) == 4


def test_streaming_keeps_the_sinks_and_the_last(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=4096, n_batch=256, kv_budget=256, kv_policy="streaming")
    for _ in range(5):
        llm.eval(text(256))
    used, end = llm.kv_stats().n_used, llm.n_tokens
    want = list(range(4)) + list(range(end - used + 4, end))
    assert llm.kv_positions(1, 1).tolist() == want


def test_the_choice_does_not_depend_on_how_the_text_is_cut(make_llama, tiny_llama):
    """The reservoir is a function of the positions, so chunks of 256 and of 100 observe the same queries."""
    kept = []
    for chunk in (250, 50):
        llm = make_llama(tiny_llama, n_ctx=2048, n_batch=256, kv_budget=256)
        for i in range(0, 500, chunk):
            llm.eval(text(500)[i : i + chunk])
        llm.compress()
        kept.append([set(llm.kv_positions(il, head)) for il in (0, 1) for head in (0, 1)])
    for a, b in zip(*kept):
        assert len(a & b) / len(a | b) > 0.97  # batches round differently


def test_a_cleared_sequence_leaves_nothing_behind(make_llama, tiny_llama):
    fresh = make_llama(tiny_llama, n_ctx=2048, n_batch=256, kv_budget=256)
    used = make_llama(tiny_llama, n_ctx=2048, n_batch=256, kv_budget=256)
    used.eval(text(800, seed=1))
    used.reset()
    for llm in (fresh, used):
        llm.eval(text(500))
        llm.compress()
    for il in (0, 1):
        np.testing.assert_array_equal(fresh.kv_positions(il, 0), used.kv_positions(il, 0))


@pytest.mark.parametrize("kind, row, share", [("f16", 256, 0.10), ("q8_0", 136, 0.12)])
@pytest.mark.parametrize("policy", ["capkv", "capkv-ref"])
def test_what_is_observed_and_the_work_stay_small_for_an_8b_shape(make_llama, tmp_path, policy, kind, row, share):
    """row: bytes of a head's 128 values."""
    path = tmp_path / "wide.gguf"
    write_llama(path, n_ctx=16384, n_embd=4096, n_layer=1, n_head=32, n_head_kv=8)

    llm = make_llama(path, n_ctx=16384, n_batch=512, kv_budget=1024, kv_headroom=512, kv_policy=policy, kv_type=kind)
    stats = llm.kv_stats()
    assert stats.bytes_kv == 1536 * 2 * 8 * row
    assert 0 < stats.bytes_obs <= stats.bytes_kv * share

    llm = make_llama(path, n_ctx=16384, n_batch=64, kv_budget=4096 - 64, kv_headroom=64, kv_policy=policy)
    llm.eval(text(64))
    stats = llm.kv_stats()
    assert stats.n_cells == 4096
    assert 0 < stats.bytes_work < 64 * 2**20


@pytest.mark.parametrize("policy", policies())
def test_heads_are_scored_in_groups_that_bound_the_work_memory(make_llama, tmp_path, policy):
    path = tmp_path / "wide.gguf"
    write_llama(path, n_ctx=4096, n_embd=4096, n_layer=2, n_head=32, n_head_kv=8)
    llm = make_llama(path, n_ctx=4096, n_batch=64, kv_budget=1024, kv_headroom=512, kv_policy=policy)
    llm.eval(text(64))
    assert 0 < llm.kv_stats().bytes_work < 18 * 2**20


@pytest.mark.parametrize("policy", policies())
def test_the_work_memory_of_evictions_is_there_with_the_first_batch(make_llama, tiny_llama, policy):
    llm = make_llama(tiny_llama, n_batch=256, kv_budget=512, kv_policy=policy)
    llm.eval(text(1))
    reserved = llm.kv_stats().bytes_work
    llm.eval(text(1000))
    assert llm.compress(300) > 0 and llm.kv_stats().n_evictions >= 2
    # ggml's allocator may find a less tight layout for fewer entries than for all of them
    assert 0 < reserved <= llm.kv_stats().bytes_work <= 1.5 * reserved


def test_sequence_operations_after_an_eviction(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=2048, n_batch=256, kv_budget=256)
    llm.eval(text(500))
    mem = llama_cpp.llama_get_memory(llm.ctx)
    assert llama_cpp.llama_memory_seq_pos_min(mem, 0) == 0
    llm.compress()

    assert not llama_cpp.llama_memory_can_shift(mem)
    tail = llama_cpp.llama_memory_seq_pos_min(mem, 0)
    assert (tail, llama_cpp.llama_memory_seq_pos_max(mem, 0)) == (500 - 64, 499)

    held = llm.kv_positions(0, 0)
    for p0, p1 in ((0, 10), (tail - 1, -1), (100, 101), (5, 499)):
        assert not llama_cpp.llama_memory_seq_rm(mem, 0, p0, p1)
        assert not llama_cpp.llama_memory_seq_rm(mem, -1, p0, p1)
    np.testing.assert_array_equal(llm.kv_positions(0, 0), held)

    assert llama_cpp.llama_memory_seq_rm(mem, 0, 490, -1)
    np.testing.assert_array_equal(llm.kv_positions(0, 0), held[:-10])
    assert llama_cpp.llama_memory_seq_rm(mem, 0, 490, -1)  # nothing there any more
    assert llama_cpp.llama_memory_seq_rm(mem, 0, -1, -1)
    assert llm.kv_stats().n_used == 0


def test_a_sliding_window_model_keeps_its_windows_and_a_budget_on_the_rest(make_llama, tmp_path):
    path = tmp_path / "gemma3.gguf"
    write_gemma3(path, window=128)
    llm = make_llama(path, n_ctx=8192, n_batch=128, kv_budget=256)
    llm.eval(text(1500))
    assert list(llm.kv_layers) == [5]
    assert llm.kv_stats().n_cells == 512
    assert llm.kv_stats().n_evictions >= 3
    for head in (0, 1):
        pos = llm.kv_positions(5, head)
        assert pos[:4].tolist() == [0, 1, 2, 3]
        assert pos[-64:].tolist() == list(range(1436, 1500))
        assert (np.diff(pos) > 0).all()

    mem = llama_cpp.llama_get_memory(llm.ctx)
    first = llama_cpp.llama_memory_seq_pos_min(mem, 0)
    assert first >= llm.kv_stats().pos_tail - 128  # one can go back to what comes a window after it
    # refused by the one cache, so not done by the other either
    before = state(llm)
    assert not llama_cpp.llama_memory_seq_rm(mem, 0, 700, -1)
    assert state(llm) == before
    assert llama_cpp.llama_memory_seq_rm(mem, 0, 1490, -1)
    assert llama_cpp.llama_memory_seq_pos_max(mem, 0) == 1489
