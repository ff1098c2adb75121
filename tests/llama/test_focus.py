"""A question that is known before its text: how it is read, what it changes, how long it is held."""

import llama_cpp
import numpy as np
import pytest
import tiny_models
from driving import BUDGET, complete, text

from capkv_edge import policies
from capkv_edge.kv import KvCache

QUESTION = "who came?"


@pytest.fixture
def given(monkeypatch):
    """The tokens that the native library is given, one list for each question."""
    found, focus = [], KvCache.focus

    def note(self, tokens, seq_id=0):
        found.append(list(tokens))
        return focus(self, tokens, seq_id)

    monkeypatch.setattr(KvCache, "focus", note)
    return found


def logits(llm, tokens):
    llm.eval(tokens)
    return np.array(llama_cpp.llama_get_logits_ith(llm.ctx, -1)[: llm.n_vocab()])


def read_back(tokens):
    special = {1: b"<s>", 2: b"</s>"}
    return b"".join(special.get(token) or bytes([token - 3]) for token in tokens).decode().replace("▁", " ")


def test_the_text_is_read_as_if_nothing_had_been_there(llm, make_llama, tiny_llama):
    other = make_llama(tiny_llama, **BUDGET)
    for n in (0, 40):
        assert llm.focus(text(20, seed=9)) == llm.n_focus == 20
        assert (logits(llm, text(40, seed=n)) == logits(other, text(40, seed=n))).all() and llm.n_tokens == other.n_tokens
    assert llm.kv_stats().n_tokens == 80 and llm.kv_stats().n_evictions == 0


def test_it_takes_part_in_evictions_until_it_is_dropped(llm, make_llama, tiny_llama, held):
    plain = make_llama(tiny_llama, **BUDGET)
    assert llm.focus(text(20, seed=9)) == 20 and llm.focus(None) == llm.n_focus == 0
    for one in (llm, plain):
        one.eval(text(200))
        one.compress()
    assert all((a == b).all() for a, b in zip(held(llm), held(plain), strict=True))
    llm.reset(), plain.reset()
    llm.focus(text(20, seed=9))
    for one in (llm, plain):
        one.eval(text(200))
        one.compress()
    assert any((a != b).any() for a, b in zip(held(llm), held(plain), strict=True))


def test_a_text_is_read_as_a_turn_of_the_user_up_to_where_the_answer_begins(llm, given):
    assert llm.focus(QUESTION) == min(30, len(given[0]))
    llm.eval(text(10))
    llm.focus(QUESTION + "</s>")
    assert read_back(given[0]) == "<s>[user]who came?</s>[assistant]"
    assert read_back(given[1]) == "</s>[user]who came?</s></s>[assistant]"
    assert given[1].count(2) == 2  # the template's alone: the text cannot end the turn
    assert llm.focus(text(50)) == 30 and given[2] == text(50)


def test_without_a_template_it_is_the_text_alone(make_llama, tmp_path, given):
    tiny_models.write_llama(tmp_path / "m.gguf", template="")
    llm = make_llama(tmp_path / "m.gguf", **BUDGET)
    llm.focus(QUESTION)
    llm.eval(text(10))
    llm.focus(QUESTION)
    assert [read_back(tokens) for tokens in given] == ["<s>who came?", "who came?"]


def test_going_back_and_reset_leave_it(llm):
    llm.focus(QUESTION)
    n = llm.n_focus
    llm.eval(text(100))
    llm.rewind(50)
    assert llm.n_focus == n
    llm.reset()
    assert llm.n_focus == n and llm.n_tokens == 0
    complete(llm, text(600), n=4)
    complete(llm, text(300) + text(50, seed=1), n=4)
    llm.create_chat_completion([{"role": "user", "content": "a long way " * 40}], max_tokens=3)
    assert llm.n_rereads >= 1 and llm.n_focus == n


def test_pins_ahead_of_the_text_stay(llm):
    llm.pin(0, 12)
    llm.focus(QUESTION)
    assert llm.pins == [(0, 12)]


def test_states_and_sessions_hold_it(llm, make_llama, tiny_llama, tmp_path):
    bare = llm.save_state()
    llm.focus(text(20, seed=9))
    llm.eval(text(300))
    llm.save_session(tmp_path / "s")
    state, want = llm.save_state(), complete(llm, text(300) + [7], n=20)
    other = make_llama(tiny_llama, **BUDGET)
    other.load_session(tmp_path / "s")
    assert other.n_focus == 20 and complete(other, text(300) + [7], n=20) == want
    other.load_state(bare)
    assert other.n_focus == 0
    other.load_state(state)
    assert other.n_focus == 20 and complete(other, text(300) + [7], n=20) == want


def test_a_token_has_to_be_read_before_the_next_one_is_sampled(llm):
    llm.eval(text(10))
    llm.focus(QUESTION)
    with pytest.raises(RuntimeError, match="there are no logits"):
        llm.sample()
    llm.eval([5])
    assert llm.sample() >= 0


def test_a_stream_ends_with_it(llm):
    stream = llm.generate(text(10))
    next(stream)
    llm.focus(QUESTION)
    with pytest.raises(RuntimeError, match="another call has changed the text"):
        next(stream)


def test_what_has_no_room_is_refused_with_the_figures(llm):
    n_cells = llm.kv_stats().n_cells
    llm.focus(QUESTION)
    n = llm.n_focus
    llm.eval(text(n_cells - 5))
    with pytest.raises(ValueError, match=rf"focus: 6 tokens, and 5 of {n_cells} cells are free: allowed is what fits without an eviction"):
        llm.focus(text(6))
    assert llm.n_focus == n and llm.n_tokens == n_cells - 5 and llm.kv_stats().n_evictions == 0
    assert llm.focus(text(5)) == 5
    llm.eval(text(20))
    assert llm.kv_stats().n_evictions == 1 and llm.focus(text(6)) == 6


@pytest.mark.parametrize("question", ["", [], [10**6], [-1]])
def test_what_is_no_question(llm, question):
    with pytest.raises(ValueError, match="allowed is"):
        llm.focus(question)
    assert llm.n_focus == 0


@pytest.mark.parametrize("policy", policies())
def test_policies_without_a_sample_refuse_it(make_llama, tiny_llama, policy):
    llm = make_llama(tiny_llama, kv_policy=policy, **BUDGET)
    if policy in ("capkv", "h2o"):
        assert llm.focus(QUESTION) > 0
    else:
        with pytest.raises(ValueError, match=f"focus: kv_policy = {policy} keeps no sample of queries: allowed is capkv, h2o"):
            llm.focus(QUESTION)
        assert llm.n_focus == llm.focus(None) == 0
    llm.eval(text(600))
    assert llm.kv_stats().n_evictions > 0


def test_without_a_budget(make_llama, tiny_llama):
    llm = make_llama(tiny_llama)
    for call in (lambda: llm.focus(QUESTION), lambda: llm.focus(None), lambda: llm.n_focus):
        with pytest.raises(RuntimeError, match="this context has no KV budget"):
            call()
