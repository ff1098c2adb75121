"""Logits without an array of all of them: what stopping criteria and logprobs see."""

import numpy as np
import pytest
import tiny_models
from driving import BUDGET, text


def test_a_stopping_criterion_sees_the_newest_logits(llm):
    seen = []
    llm.create_completion(
        text(200), max_tokens=4, temperature=0, stopping_criteria=lambda ids, row: seen.append((len(ids), row.copy()))
    )
    assert [n for n, _ in seen][:4] == [200, 201, 202, 203]
    assert int(seen[0][1].argmax()) == llm.input_ids[: llm.n_tokens][200]
    assert seen[0][1].shape == (tiny_models.N_VOCAB,)


def test_logprobs_are_those_of_upstream(make_llama, tiny_llama):
    upstream = make_llama(tiny_llama, n_ctx=512, kv_budget=0, flash_attn=True, logits_all=True)
    mine = make_llama(tiny_llama, n_ctx=512, kv_budget=512, kv_type="f16", logits_all=True)
    want, got = (x.create_completion(text(80), max_tokens=10, temperature=0, logprobs=3) for x in (upstream, mine))
    assert got["choices"][0]["text"] == want["choices"][0]["text"]
    assert got["usage"] == want["usage"]
    got, want = got["choices"][0]["logprobs"], want["choices"][0]["logprobs"]
    assert got["tokens"] == want["tokens"]
    np.testing.assert_allclose(got["token_logprobs"], want["token_logprobs"], rtol=1e-4, atol=1e-4)


def test_logprobs_need_logits_all_and_no_echo(make_llama, tiny_llama, llm):
    with pytest.raises(ValueError, match="logits_all=False"):
        llm.create_completion(text(10), logprobs=1)
    with pytest.raises(ValueError, match="echo = True"):
        make_llama(tiny_llama, logits_all=True, **BUDGET).create_completion("a", logprobs=1, echo=True)
