"""Going back after evictions: exact inside the tail, read anew and told outside it."""

import llama_cpp
import numpy as np
import pytest
from driving import BUDGET, complete, go_on, text
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


@pytest.fixture
def llm(make_llama, tiny_llama):
    return make_llama(tiny_llama, kv_recent=24, **BUDGET)


def logits(llm, tokens):
    llm.eval(tokens)
    return np.array(llama_cpp.llama_get_logits_ith(llm.ctx, -1)[: llm.n_vocab()])


def go_back(llm, n):
    """Forget the last n tokens."""
    llm.n_tokens -= n


@pytest.mark.parametrize("n_back", [1, 7, 23])
def test_within_the_tail_what_follows_is_as_if_nothing_had_been_there(llm, n_back):
    llm.eval(text(600))
    llm.compress()
    state = llm.save_state()
    want = logits(llm, [9])
    llm.load_state(state)
    llm.eval(text(n_back, seed=1))
    go_back(llm, n_back)
    np.testing.assert_allclose(logits(llm, [9]), want, atol=1e-4)


def test_the_whole_tail_can_be_replaced_and_no_more(llm, held):
    tokens = text(600)
    llm.eval(tokens)
    llm.compress()
    before = held(llm)
    go_back(llm, 24)
    llm.eval(tokens[-24:])
    assert all((a == b).all() for a, b in zip(held(llm), before, strict=True))
    go_back(llm, 25)
    with pytest.raises(RuntimeError, match="cannot go back to token 575: from 576 on all are held"):
        llm.eval([5])


def test_a_reply_is_regenerated_without_reading_again(llm):
    prompt = text(600)
    first = complete(llm, prompt, n=8)
    n_evictions = llm.kv_stats().n_evictions
    for _ in range(3):
        assert complete(llm, prompt, n=8) == first
    assert llm.n_rereads == 0 and llm.kv_stats().n_evictions == n_evictions


def test_the_last_turn_is_edited_without_reading_again(make_llama, tiny_llama, llm):
    history, turn = text(590), text(6, seed=1)
    complete(llm, history + turn, n=4)
    edited = complete(llm, history + text(6, seed=2), n=4)
    assert llm.n_rereads == 0
    fresh = make_llama(tiny_llama, kv_recent=24, **BUDGET)
    assert complete(fresh, history + text(6, seed=2), n=4) == edited


def test_outside_the_tail_all_is_read_again_and_told(make_llama, tiny_llama, capfd):
    llm = make_llama(tiny_llama, verbose=True, **BUDGET)
    complete(llm, text(600), n=4)
    complete(llm, text(300) + text(50, seed=1), n=4)
    assert llm.n_rereads == 1
    assert "the prompt shares 300 tokens, all are held only from" in capfd.readouterr().err


def test_rejected_drafts_leave_no_trace(make_llama, tiny_llama, held):
    """Prompt lookup drafts what came before; the random model rejects nearly all of it, across evictions."""
    options = dict(kv_budget=128, n_batch=64)
    plain = make_llama(tiny_llama, **options)
    drafting = make_llama(tiny_llama, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=8), **options)
    for llm in (plain, drafting):
        llm.eval(text(40) * 5)
    want = go_on(plain, 40)
    assert go_on(drafting, 40) == want
    assert plain.n_tokens == drafting.n_tokens
    for a, b in zip(held(plain), held(drafting), strict=True):
        assert len(a) == len(b) and (a == b).all()


@pytest.mark.parametrize("n_left", [0, 3, 20])
def test_an_eviction_of_what_was_left_of_a_tail_keeps_just_that_as_the_tail(make_llama, tiny_llama, held, n_left):
    """What comes before it is each head's own: no position is claimed there that a head does not hold."""
    llm = make_llama(tiny_llama, n_batch=32, kv_budget=128, kv_recent=24)
    llm.eval(text(600))
    llm.compress()
    go_back(llm, 24 - n_left)
    before, tail = held(llm), llm.kv_stats().pos_tail
    assert llm.compress(64) == 128 - 24 + n_left - 64
    assert llm.kv_stats().pos_tail == tail == 576
    for old, new in zip(before, held(llm), strict=True):
        assert set(new) <= set(old) and len(new) == 64
        assert new[64 - n_left :].tolist() == list(range(576, 576 + n_left))
