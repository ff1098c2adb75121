"""With a budget and no n_ctx a context has no end: a text is read on past the trained length, and nothing is as long as the text."""

import pickle

import numpy as np
import pytest
import tiny_archs
import tiny_models
from driving import BUDGET, complete, go_on, text

from capkv_edge.llama.logits import row_of


@pytest.fixture
def limited(make_llama, tiny_llama):
    return make_llama(tiny_llama, n_ctx=4096, **BUDGET)


@pytest.fixture
def short_model(tmp_path):
    """A tiny model that was trained for 512 tokens."""
    tiny_models.write_llama(tmp_path / "short.gguf", n_ctx=512)
    return tmp_path / "short.gguf"


def test_only_a_length_that_was_not_given_has_no_end(make_llama, tiny_llama, llm, limited):
    assert llm.is_endless and llm.can_pass_trained and llm.n_ctx() == 2**30
    assert make_llama(tiny_llama, n_ctx=0, **BUDGET).is_endless
    assert not limited.is_endless and limited.can_pass_trained and limited.n_ctx() == 4096
    without = make_llama(tiny_llama)
    assert not without.is_endless and not without.can_pass_trained and without.n_ctx() == 512


def test_a_share_is_one_of_the_trained_length(make_llama, tiny_llama):
    assert make_llama(tiny_llama, kv_budget="10%", n_batch=32).kv_config.budget == 409


MODELS = {
    "llama": tiny_models.write_llama,
    "gemma3": tiny_models.write_gemma3,
    "yarn": tiny_archs.write_yarn,
    "short factors": lambda path: tiny_archs.write_longrope(path, 4096),
    "long factors": lambda path: tiny_archs.write_longrope(path, 256),
}


@pytest.mark.parametrize("model", MODELS)
def test_inside_the_trained_length_every_bit_is_as_with_that_length(make_llama, held, tmp_path, model):
    path = tmp_path / "model.gguf"
    MODELS[model](path)
    n_trained = 8192 if model == "gemma3" else 4096
    endless, limited = (make_llama(path, kv_budget=128, n_batch=64, **options) for options in ({}, {"n_ctx": n_trained}))
    assert endless.is_endless and endless.kv_stats().n_cells == limited.kv_stats().n_cells
    for llm in (endless, limited):
        llm.eval(text(1500))
    assert np.array_equal(row_of(endless, -1), row_of(limited, -1))
    assert all(np.array_equal(a, b) for a, b in zip(held(endless), held(limited), strict=True))
    assert go_on(endless, 40) == go_on(limited, 40)


def test_two_sets_of_factors_differ(make_llama, tmp_path):
    """The test above can fail: a context of another length takes the other factors."""
    tiny_archs.write_longrope(tmp_path / "model.gguf", 4096)
    rows = []
    for n_ctx in (4096, 8192):
        llm = make_llama(tmp_path / "model.gguf", n_ctx=n_ctx, **BUDGET)
        llm.eval(text(50))
        rows.append(row_of(llm, -1).copy())
    assert not np.array_equal(*rows)


def test_a_text_past_the_trained_length_is_read_and_answered(make_llama, short_model):
    llm = make_llama(short_model, **BUDGET)
    tokens = text(3000)
    answer = llm.create_completion(tokens, max_tokens=20, temperature=0)
    assert answer["usage"] == {"prompt_tokens": 3000, "completion_tokens": 20, "total_tokens": 3020}
    assert llm.input_ids[:3000].tolist() == tokens
    stats = llm.kv_stats()
    assert stats.n_tokens == llm.n_tokens >= 3019 and stats.n_used <= stats.n_cells < 512
    assert stats.bytes_full == stats.bytes_kv // stats.n_cells * stats.n_tokens
    # and it goes on from there: the second prompt reads only what is new
    complete(llm, llm.input_ids[: llm.n_tokens].tolist() + text(200, seed=1))
    assert llm.n_rereads == 0 and llm.kv_stats().n_tokens >= 3219


def test_an_explicit_length_stays_a_limit(make_llama, tiny_llama, short_model):
    for path, n_ctx in ((tiny_llama, 512), (short_model, 2048)):
        llm = make_llama(path, n_ctx=n_ctx, **BUDGET)
        with pytest.raises(ValueError, match=f"exceed context window of {n_ctx}"):
            llm.create_completion(text(n_ctx))


def test_a_completion_without_a_limit_ends_at_the_trained_length(make_llama, short_model):
    llm = make_llama(short_model, **BUDGET)
    never = {llm.token_eos(): -1000.0}
    no_limit = [({"max_tokens": value}, 512) for value in (None, 0, -1)]
    for given, n in (*no_limit, ({"max_tokens": 600}, 600), ({}, 16)):
        answer = llm.create_completion(text(700), temperature=0, logit_bias=never, **given)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert n <= answer["usage"]["completion_tokens"] < n + 8  # upstream adds what ends a character


def test_nothing_but_token_ids_is_as_long_as_the_text(make_llama, short_model):
    llm = make_llama(short_model, kv_budget=64, n_batch=32, logits_all=True)
    llm.eval(text(10))
    bytes_work = llm.kv_stats().bytes_work
    llm.eval(text(600))  # evictions make the position table, and new RoPE positions a part of it
    stats = llm.kv_stats()
    assert stats.n_reindexes > 0
    for n in (4000, 8000):
        llm.eval(text(n))
        now = llm.kv_stats()
        assert (now.n_cells, now.bytes_total, now.bytes_work) == (stats.n_cells, stats.bytes_total, bytes_work)
        assert len(llm._kept_logits) <= 64 and llm.scores.size == 0 and llm._batch.n_seq_max == 1
        assert 4 * llm.n_tokens <= llm.input_ids.nbytes <= 5 * llm.n_tokens + 1000


def test_drafts_past_the_trained_length_change_no_token(make_llama, short_model):
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    prompt = text(30) * 20
    plain, drafting = (
        make_llama(short_model, kv_budget=300, n_batch=64, draft_model=draft) for draft in (None, LlamaPromptLookupDecoding())
    )
    plain.eval(prompt), drafting.eval(prompt)
    assert complete(drafting, prompt, n=60)
    assert drafting.n_tokens > 512


def test_a_budget_as_long_as_the_trained_length_ends_there(make_llama, short_model):
    llm = make_llama(short_model, kv_budget="100%", n_batch=32)
    assert not llm.is_endless and llm.n_ctx() == 512
    with pytest.raises(ValueError, match="exceed context window of 512"):
        llm.create_completion(text(600))


def test_batches_are_cut_to_the_room_in_the_trained_length(make_llama, short_model):
    llm = make_llama(short_model, kv_budget=100, n_batch=512, n_ubatch=128)
    assert llm.is_endless and llm.n_batch == 412
    llm.eval(text(5000))
    assert llm.n_tokens == 5000


def test_where_positions_stay_true_the_trained_length_is_the_end(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, kv_reindex="never", **BUDGET)
    assert not llm.is_endless and not llm.can_pass_trained and llm.n_ctx() == 4096
    with pytest.raises(ValueError, match="exceed context window of 4096"):
        llm.create_completion(text(4096))


def test_states_and_sessions_go_both_ways(make_llama, tiny_llama, llm, limited, tmp_path):
    llm.eval(text(5000))
    state, path = llm.save_state(), tmp_path / "a.session"
    llm.save_session(path)
    want = go_on(llm, 50)
    for load in (lambda other: other.load_state(state), lambda other: other.load_session(path)):
        for options in ({}, {"n_ctx": 4096}):
            other = make_llama(tiny_llama, **BUDGET, **options)
            load(other)
            assert other.is_endless == (not options) and other.n_tokens == 5000
            assert len(other.input_ids) < 6000
            assert go_on(other, 50) == want
    with pytest.raises(ValueError, match="exceed context window of 4096"):
        other.create_completion(other.input_ids[:5000].tolist())

    limited.eval(text(1000))
    llm.load_state(limited.save_state())
    assert go_on(llm, 50) == go_on(limited, 50)


def test_a_copy_has_no_end_either(llm, limited):
    for one in (llm, limited):
        copy = pickle.loads(pickle.dumps(one))
        assert (copy.is_endless, copy.n_ctx()) == (one.is_endless, one.n_ctx())
        copy.close()
