"""Saved states: they go on token for token, and one that does not fit is refused with its reason."""

import pickle

import pytest
from driving import BUDGET, complete, go_on, text


def test_a_state_goes_on_token_for_token_after_evictions(make_llama, tiny_llama, llm, held):
    llm.eval(text(1000))
    state = llm.save_state()
    positions, want = held(llm), go_on(llm, 200)
    assert len(state.input_ids) == 1000 and state.scores.size == 0

    llm.load_state(state)
    assert go_on(llm, 200) == want

    other = make_llama(tiny_llama, **BUDGET)
    other.eval(text(77, seed=3))
    other.load_state(state)
    assert all((a == b).all() for a, b in zip(held(other), positions, strict=True))
    assert other.kv_stats().n_evicted == 1000 - len(positions[0])
    assert go_on(other, 200) == want


def test_a_state_serves_prefix_reuse(make_llama, tiny_llama, llm):
    tokens = text(500)
    llm.eval(tokens)
    other = make_llama(tiny_llama, **BUDGET)
    other.load_state(llm.save_state())
    prompt = [*tokens, 5]
    assert complete(other, prompt) == complete(llm, prompt)
    assert other.n_rereads == 0


@pytest.mark.parametrize(
    "options", [dict(kv_policy="streaming"), dict(kv_sink=5), dict(kv_budget=0, n_ctx=512), dict(type_k=8)]
)
def test_a_state_that_does_not_fit_is_refused_and_the_context_stays_usable(make_llama, tiny_llama, llm, options):
    llm.eval(text(1000))
    other = make_llama(tiny_llama, **{**BUDGET, **options})
    want = complete(other, text(50))
    with pytest.raises(ValueError, match="the state does not fit: .+"):
        other.load_state(llm.save_state())
    assert complete(other, text(50)) == want


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_state_is_refused(llm, keep):
    llm.eval(text(1000))
    want = go_on(llm, 5)
    llm.reset()
    llm.eval(text(1000))
    state = llm.save_state()
    state.llama_state = state.llama_state[: int(keep * len(state.llama_state))]
    with pytest.raises(ValueError, match="the state does not fit"):
        llm.load_state(state)
    state.llama_state_size = len(state.llama_state)
    with pytest.raises(ValueError, match="the state does not fit"):
        llm.load_state(state)
    llm.reset()
    llm.eval(text(1000))
    assert go_on(llm, 5) == want


def test_pickling_keeps_the_options(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, kv_policy="streaming", kv_sink=2, kv_seed=9, logits_all=True, **BUDGET)
    copy = pickle.loads(pickle.dumps(llm))
    assert copy.kv_config == llm.kv_config and copy._wants_logits
    copy.close()
