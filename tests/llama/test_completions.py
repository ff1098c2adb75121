"""Completions with log probabilities: no character is lost, and the texts of the tokens are the text."""

import pytest
from driving import BUDGET, text
from llama_cpp import LlamaGrammar
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

WANT = "日本語 🎉 ok"


def said(words):
    return LlamaGrammar.from_string(f'root ::= "{words}"', verbose=False)


@pytest.fixture
def llm(make_llama, demo_model):
    return make_llama(demo_model, kv_budget=64, n_batch=32, n_ctx=512, logits_all=True)


def joined(chunks, prompt):
    """The text of a stream; checks that tokens, offsets and text agree in every chunk."""
    whole = ""
    for chunk in chunks:
        choice = chunk["choices"][0]
        if choice["logprobs"] is not None:
            assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
            for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]):
                assert offset == len(prompt) + len(whole)
                whole += token
        else:
            assert choice["text"] == ""
    return whole


def test_a_character_split_over_tokens_is_not_lost(llm):
    done = llm.create_completion("Say:", grammar=said(WANT), logprobs=1, max_tokens=40)
    choice = done["choices"][0]
    assert choice["text"] == WANT
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == WANT
    assert [len("Say:") + len("".join(logprobs["tokens"][:i])) for i in range(len(logprobs["tokens"]))] == logprobs["text_offset"]
    assert len(logprobs["tokens"]) == done["usage"]["completion_tokens"] > len(WANT)
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[token] == value <= 0 and len(top) in (1, 2)


def test_a_stream_has_the_same_text(llm):
    chunks = list(llm.create_completion("Say:", grammar=said(WANT), logprobs=1, max_tokens=40, stream=True))
    assert joined(chunks, "Say:") == WANT
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("n", range(1, 12))
def test_cut_at_any_token(llm, n):
    options = dict(grammar=said(WANT), temperature=0, max_tokens=n)
    want = llm.create_completion("Say:", **options)["choices"][0]["text"]
    got = llm.create_completion("Say:", logprobs=1, **options)["choices"][0]["text"]
    assert got == want and WANT.startswith(got)


@pytest.mark.parametrize("stop", ["語", " ok", "🎉 o", "本語 🎉", "k!"])
def test_a_stop_sequence_cuts_as_without_logprobs(llm, stop):
    options = dict(grammar=said(WANT), max_tokens=40, stop=[stop])
    done = llm.create_completion("Say:", logprobs=2, **options)["choices"][0]
    assert done["text"] == WANT.partition(stop)[0] == "".join(done["logprobs"]["tokens"])


def test_an_empty_prompt(make_llama, tiny_llama, llm):
    done = make_llama(tiny_llama, logits_all=True, kv_type="f16", **BUDGET).create_completion("", max_tokens=5, logprobs=1)
    assert len(done["choices"][0]["logprobs"]["tokens"]) == 5
    for prompt in ("", []):  # a model without a token to begin with
        with pytest.raises(ValueError, match="prompt = .*: allowed is at least one token"):
            llm.create_completion(prompt)
    assert llm.create_completion("a", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_drafts_give_the_same_log_probabilities(make_llama, tiny_llama):
    options = dict(kv_budget=400, n_batch=64, logits_all=True)
    prompt = text(30) * 6
    plain = make_llama(tiny_llama, **options)
    drafting = make_llama(tiny_llama, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=5), **options)
    want, got = (one.create_completion(prompt, max_tokens=40, temperature=0, logprobs=1)["choices"][0] for one in (plain, drafting))
    assert got["text"] == want["text"]
    assert got["logprobs"]["token_logprobs"] == pytest.approx(want["logprobs"]["token_logprobs"], abs=1e-3)


def test_a_refused_prompt_leaves_nothing_behind(llm):
    with pytest.raises(ValueError, match="exceed context window"):
        llm.create_completion([5] * 600, logprobs=1)
    assert llm._tally is None
    assert llm.create_completion("a", max_tokens=2)["choices"][0]["logprobs"] is None


# --- eval_logits ---


def test_eval_logits_are_the_kept_rows(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, logits_all=True, **BUDGET)
    assert list(llm.eval_logits) == []
    for token in text(80):
        llm.eval([token])
    rows = llm.eval_logits
    assert len(rows) == 64 and rows[-1] == llm._scores[-1, :].tolist() != rows[-2]


def test_eval_logits_without_logits_all_are_the_newest_row(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **BUDGET)
    llm.eval(text(80))
    (row,) = llm.eval_logits
    assert len(row) == llm.n_vocab() and row == llm._scores[-1, :].tolist()
    state = llm.save_state()
    llm.load_state(state)
    with pytest.raises(RuntimeError, match="no logits"):
        _ = llm.eval_logits
