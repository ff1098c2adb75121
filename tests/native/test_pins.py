"""Pinned tokens: every head of every layer holds them after each eviction, whatever the policy says."""

import numpy as np
import pytest
import saved_state
from driving import BUDGET, complete, text
from selection import Attention, check_kept, scores

from capkv_edge import policies

SINK, RECENT = 4, 16
ROOM = "leave 15 of a budget of 64 to choose from: allowed is at least a quarter of it, 16, so at most 28 pinned tokens"


@pytest.fixture
def llm(make_llama, tiny_llama):
    return make_llama(tiny_llama, kv_recent=RECENT, **BUDGET)


def holds(llm, held, *positions):
    """Whether every head holds these positions."""
    return all(np.isin(positions, row).all() for row in held(llm))


@pytest.mark.parametrize("policy", policies())
def test_every_head_keeps_them(make_llama, tiny_llama, held, policy):
    llm = make_llama(tiny_llama, kv_recent=RECENT, kv_policy=policy, **BUDGET)
    llm.eval(text(50))
    llm.pin(20, 30)
    llm.pin(900, 905)  # ahead
    for n in (100, 300, 600):
        llm.eval(text(n))
        llm.compress()
        assert holds(llm, held, *range(20, 30)) and all(len(row) == 64 for row in held(llm))
    assert llm.n_tokens == 1050 and holds(llm, held, *range(900, 905))
    llm.unpin(20, 30)
    llm.eval(text(600))
    assert policy != "streaming" or not holds(llm, held, 20)
    assert holds(llm, held, *range(900, 905))


@pytest.mark.parametrize("policy", ["capkv", "capkv-ref", "snapkv", "keydiff"])
def test_the_reference_would_keep_the_same_beside_them(make_llama, tiny_llama, policy):
    llm = make_llama(tiny_llama, kv_recent=RECENT, kv_policy=policy, n_ctx=4096, **BUDGET)
    pinned = [*range(40, 52), *range(230, 240)]
    llm.pin(40, 52)
    llm.pin(230, 240)
    n_low = 0  # pinned entries that the policy alone would have dropped
    for i in range(3):
        llm.eval(text(200, seed=i))
        before = saved_state.parse(saved_state.save(llm.ctx))
        assert before.pins.tolist() == [[40, 52], [230, 240]]
        llm.compress()
        for il, layer in zip(llm.kv_layers, before.layers, strict=True):
            score = scores(policy, before, layer, Attention())
            for head in range(layer.n_head_kv):
                check_kept(llm.kv_positions(il, head), layer.pos[head], score[head], 64, SINK, RECENT, pinned)
                n_low += (score[head][np.isin(layer.pos[head], pinned)] < np.median(score[head])).sum()
    assert n_low > 10


def test_they_are_in_the_tail_when_it_moves_on(llm, held):
    llm.eval(text(60))
    llm.pin(55, 60)
    for _ in range(40):
        llm.eval(text(16))
    assert llm.kv_stats().n_evictions >= 3 and holds(llm, held, *range(55, 60))
    assert llm.kv_stats().pos_tail > 60  # pins in the middle make the tail no longer


def test_what_some_heads_have_dropped_cannot_be_pinned(llm, held):
    llm.eval(text(600))
    llm.compress()
    tail = llm.kv_stats().pos_tail
    rows = held(llm)
    in_all = [pos for pos in range(4, tail) if all(pos in row for row in rows)]
    in_some = next(pos for pos in range(4, tail) if pos not in in_all and any(pos in row for row in rows))
    one = rf"\[{in_some}, {in_some + 1}\)"
    with pytest.raises(ValueError, match=rf"pin {one}: some KV heads have dropped the tokens {one}"):
        llm.pin(in_some, in_some + 1)
    assert llm.pins == []
    llm.pin(0, 4)
    llm.pin(tail, tail + 3)
    for pos in in_all[:5]:
        llm.pin(pos, pos + 1)
    llm.eval(text(600))
    assert holds(llm, held, *range(4), *in_all[:5], *range(tail, tail + 3))


def test_too_many_are_an_error_with_the_figures(llm):
    llm.pin(0, 32)
    with pytest.raises(ValueError, match="pin .500, 501.: 29 pinned tokens, kv_sink = 4 and kv_recent = 16 " + ROOM):
        llm.pin(500, 501)
    assert llm.pins == [(0, 32)]
    llm.eval(text(600))
    with pytest.raises(ValueError, match="28 pinned tokens, .* leave 15 of a budget of 63"):
        llm.compress(63)
    assert llm.compress(64) > 0
    llm.unpin(10, 20)
    assert llm.compress(54) == 10


def test_ranges_and_what_is_no_range(llm):
    llm.pin(30, 35)
    llm.pin(np.int64(10), np.int64(20))
    llm.pin(20, 22)
    assert llm.pins == [(10, 22), (30, 35)]
    llm.unpin(12, 31)
    assert llm.pins == [(10, 12), (31, 35)]
    llm.unpin(stop=11)
    llm.unpin(34)
    assert llm.pins == [(11, 12), (31, 34)]
    llm.unpin()
    assert llm.pins == []
    for start, stop in ((5, 5), (6, 5), (-1, 5), (0, -1), (0, 2**31), (1.0, 2), (True, 2), (None, 3), (0, 2**30 + 1)):
        with pytest.raises(ValueError, match="allowed is"):
            llm.pin(start, stop)
    for start, stop in ((-1, 5), (0, 2**31), ("1", None)):
        with pytest.raises(ValueError, match="allowed is a position"):
            llm.unpin(start, stop)


def test_without_a_budget(make_llama, tiny_llama):
    llm = make_llama(tiny_llama)
    for call in (lambda: llm.pin(0, 1), llm.unpin, lambda: llm.pins):
        with pytest.raises(RuntimeError, match="no KV budget"):
            call()


def test_going_back_ends_those_of_the_tokens_that_go(llm):
    llm.pin(5, 8)
    llm.pin(44, 60)
    llm.eval(text(50))
    assert llm.pins == [(5, 8), (44, 60)]  # reading ends none
    llm.n_tokens = 45
    llm.eval(text(1))
    assert llm.pins == [(5, 8), (44, 45), (50, 60)]  # what is ahead stays
    llm.reset()
    assert llm.pins == []
    llm.pin(3, 9)
    llm.reset()  # of nothing
    assert llm.pins == []


def test_a_prompt_that_is_read_anew_keeps_those_of_its_beginning(llm, held):
    prompt = text(300)
    llm.pin(10, 30)
    llm.pin(280, 285)
    complete(llm, prompt)
    complete(llm, prompt[:200] + text(150, seed=1))
    assert llm.n_rereads == 1 and llm.pins == [(10, 30)]
    assert llm.kv_stats().n_evictions and holds(llm, held, *range(10, 30))
    complete(llm, text(50, seed=2))  # nothing of it was there
    assert llm.pins == []


def test_a_prompt_that_is_sent_again_keeps_those_of_all_its_tokens(llm):
    """Its last token is read again for its logits."""
    prompt = text(60)
    llm.eval(prompt)
    llm.pin(50, 60)
    llm.pin(62, 64)
    llm.load_state(llm.save_state())
    complete(llm, prompt)
    assert llm.pins == [(50, 60), (62, 64)]


def test_states_and_sessions_hold_them(make_llama, tiny_llama, llm, held, tmp_path):
    llm.eval(text(40))
    llm.pin(20, 30)
    llm.pin(700, 705)
    llm.eval(text(400))
    state = llm.save_state()
    llm.save_session(tmp_path / "s")
    other = make_llama(tiny_llama, kv_recent=RECENT, **BUDGET)
    for load in (lambda one: one.load_state(state), lambda one: one.load_session(tmp_path / "s")):
        for one in (llm, other):
            one.reset()
            one.pin(5, 6)
            load(one)
            assert one.pins == [(20, 30), (700, 705)]
            one.eval(text(400))
            assert holds(one, held, *range(20, 30), *range(700, 705))


def test_the_state_of_an_empty_sequence_holds_them(make_sequences):
    c = make_sequences(n_seq=2)
    c.kv.pin(20, 30, 0)
    one, both = c.save(0), c.get()
    for data, seq in ((one, 0), (one, 1), (both, None)):
        c.read(50, 0, 1)
        c.kv.unpin(seq_id=0)
        assert c.set(data, seq) == len(data)
        assert c.kv.pins(seq or 0) == [(20, 30)] and c.pos_max(seq or 0) == -1


def test_a_budget_that_has_no_room_for_them_refuses_the_state(make_llama, tiny_llama, llm, tmp_path):
    llm.pin(4, 32)
    llm.eval(text(300))
    llm.save_session(tmp_path / "s")
    small = make_llama(tiny_llama, kv_recent=RECENT, **{**BUDGET, "kv_budget": 48})
    small.eval(text(30))
    with pytest.raises(ValueError, match="28 pinned tokens.* leave 0 of a budget of 48"):
        small.load_session(tmp_path / "s")
    assert small.n_tokens == 0 and small.pins == []
    small.eval(text(300))


def test_copies_hold_them(make_sequences):
    c = make_sequences(n_seq=2)
    c.read(50, 0)
    c.kv.pin(20, 30, 0)
    c.cp(0, 1)
    assert c.kv.pins(1) == [(20, 30)]
    c.kv.unpin(seq_id=0)
    c.read(300, 0, 1)
    assert all(np.isin(range(20, 30), row).all() for row in c.held(1)) and c.kv.pins(0) == []
    c.rm(1, -1, -1)
    assert c.kv.pins(1) == []
    for call in (lambda: c.kv.pin(0, 1, 2), lambda: c.kv.unpin(seq_id=-1), lambda: c.kv.pins(2)):
        with pytest.raises(ValueError, match="seq_id = .*: allowed is 0 to 1"):
            call()
