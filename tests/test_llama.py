"""Llama with a budget: reading, prefix reuse, states and errors, mostly on a tiny model with random weights."""

import itertools
import pickle

import numpy as np
import pytest
import tiny_models

from capkv_edge import Llama

BUDGET = dict(kv_budget=64, n_batch=32)


def text(n, seed=0):
    """n tokens of the tiny model's vocabulary."""
    return np.random.default_rng(seed).integers(3, tiny_models.N_VOCAB, n).tolist()


def go_on(llm, n, first=5):
    """The n tokens that the model goes on with after `first`, greedily."""
    return list(itertools.islice(llm.generate([first], reset=False, temp=0), n))


def complete(llm, prompt, n=20, **options):
    return llm.create_completion(prompt, max_tokens=n, temperature=0, **options)["choices"][0]["text"]


@pytest.fixture
def llm(make_llama, tiny_llama):
    return make_llama(tiny_llama, **BUDGET)


# --- reading ---


def test_budget_resolves_and_the_context_stays_long(llm):
    assert llm.n_ctx() == 4096
    config = llm.kv_config
    assert (config.budget, config.sink, config.recent, config.headroom) == (64, 4, 32, 32)
    stats = llm.kv_stats()
    assert (stats.n_tokens, stats.n_used, stats.n_evictions) == (0, 0, 0)
    assert stats.n_cells < 4096 and stats.compression > 1
    assert llm.kv_layers == [0, 1] and llm.kv_heads(0) == 2


def test_a_budget_as_memory_or_share(make_llama, tiny_llama):
    assert make_llama(tiny_llama, kv_budget="10%", n_batch=32).kv_config.budget == 409
    assert make_llama(tiny_llama, kv_budget="128KiB", n_batch=32).kv_config.budget == 256  # 2 layers x 2 x 64 x 2 bytes each


def test_a_long_text_leaves_sinks_tail_and_a_middle_per_head(llm, held):
    tokens = text(2000)
    llm.eval(tokens)
    stats = llm.kv_stats()
    assert llm._input_ids.tolist() == tokens
    assert stats.n_tokens == llm.n_tokens == 2000
    assert stats.n_used == 2000 - stats.n_evicted <= stats.n_cells
    assert stats.n_evictions > 2
    heads = held(llm)
    for positions in heads:
        assert positions.dtype == np.int32 and len(positions) == stats.n_used
        assert (np.diff(positions) > 0).all() and positions[0] == 0
        assert positions[:4].tolist() == [0, 1, 2, 3]
        assert set(range(stats.pos_tail, 2000)) <= set(positions.tolist())
    assert len({tuple(positions) for positions in heads}) > 1


def test_more_tokens_than_n_ctx_can_be_read(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=512, **BUDGET)
    llm.eval(text(3000))
    assert llm.n_tokens == 3000 == llm.kv_stats().n_tokens
    with pytest.raises(ValueError, match="exceed context window"):
        llm.create_completion(text(512))


def test_nothing_is_as_long_as_the_context_but_token_ids(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=131072, kv_budget=64, n_batch=32, logits_all=True)
    llm.eval(text(1000))
    assert llm._batch.n_seq_max == 1
    assert llm.scores.size == 0
    assert len(llm._kept_logits) <= 64
    assert llm.input_ids.size == 131072


def test_reset_empties_the_cache_at_once(llm, held):
    llm.eval(text(500))
    llm.reset()
    assert llm.kv_stats().n_used == 0 and llm.kv_stats().n_tokens == 0
    assert [len(positions) for positions in held(llm)] == [0] * 4


def test_after_reset_everything_is_as_at_first(make_llama, tiny_llama, llm, held):
    llm.eval(text(700, seed=1))
    llm.reset()
    llm.eval(text(500, seed=2))
    fresh = make_llama(tiny_llama, **BUDGET)
    fresh.eval(text(500, seed=2))
    assert all((a == b).all() for a, b in zip(held(llm), held(fresh), strict=True))
    assert go_on(llm, 50) == go_on(fresh, 50)


def test_without_eviction_a_budget_changes_nothing(make_llama, tiny_llama):
    full = make_llama(tiny_llama, n_ctx=256, kv_budget=0, flash_attn=True)
    roomy = make_llama(tiny_llama, n_ctx=256, kv_budget=256)
    assert complete(full, text(100)) == complete(roomy, text(100))


def test_compress_evicts_on_demand(llm, held):
    llm.eval(text(90))
    assert llm.compress() == 26
    assert llm.compress() == 0
    assert llm.compress(48) == 16
    assert {len(positions) for positions in held(llm)} == {48}
    assert llm.kv_stats().n_evicted == 42


@pytest.mark.parametrize("budget", [0, -1, True, 1.5, "64", 2**40, 3])
def test_compress_refuses_what_is_no_budget(llm, budget):
    llm.eval(text(90))
    with pytest.raises(ValueError, match=f"budget = {budget}: allowed is"):
        llm.compress(budget)
    assert llm.kv_stats().n_used == 90


def test_positions_of_no_such_layer_or_head(llm):
    with pytest.raises(ValueError, match="layer = 7"):
        llm.kv_positions(7, 0)
    with pytest.raises(ValueError, match="head = 2: allowed is 0 to 1"):
        llm.kv_positions(0, 2)


def test_without_a_budget_the_kv_methods_say_so(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=256)
    assert llm.kv_config is None
    for call in (llm.kv_stats, llm.compress, lambda: llm.kv_positions(0, 0), lambda: llm.kv_layers, lambda: llm.kv_heads(0)):
        with pytest.raises(RuntimeError, match="no KV budget: give kv_budget"):
            call()


# --- prefix reuse ---


def test_a_prompt_that_goes_on_is_not_read_again(llm):
    first = text(600)
    complete(llm, first)
    n_before = llm.kv_stats().n_evicted
    complete(llm, llm._input_ids.tolist() + text(40, seed=1))
    assert llm.n_rereads == 0
    assert llm.kv_stats().n_evicted >= n_before
    assert llm.kv_stats().n_tokens == llm.n_tokens > 660


def test_going_back_within_the_tail_rereads_nothing(llm):
    tokens = text(400)
    complete(llm, tokens, n=8)
    assert llm.kv_stats().pos_tail < 399
    complete(llm, tokens, n=8)
    assert llm.n_rereads == 0


def test_going_back_into_the_evicted_middle_reads_all_again(make_llama, tiny_llama, llm):
    tokens = text(600)
    complete(llm, tokens)
    prompt = tokens[:200] + text(100, seed=9)
    again = complete(llm, prompt)
    assert llm.n_rereads == 1
    assert again == complete(make_llama(tiny_llama, **BUDGET), prompt)


def test_eval_after_n_tokens_was_set_back_too_far_is_refused(llm):
    llm.eval(text(500))
    llm.n_tokens = 100
    with pytest.raises(RuntimeError, match=r"cannot go back to token 100: from \d+ on all are held"):
        llm.eval([5])
    llm.reset()
    llm.eval([5])
    assert llm.kv_stats().n_tokens == 1


def test_an_interrupted_reply_leaves_the_object_usable(make_llama, tiny_llama, llm):
    stream = llm.create_completion(text(300), max_tokens=100, temperature=0, stream=True)
    for _ in range(5):
        next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    assert complete(llm, text(300)) == complete(make_llama(tiny_llama, **BUDGET), text(300))


def test_an_interrupt_between_decode_and_bookkeeping_is_made_good(llm, make_llama, tiny_llama, monkeypatch):
    llm.eval(text(200))
    decode = llm._ctx.decode

    def interrupted(batch):
        decode(batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(llm._ctx, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.eval(text(20, seed=1))
    monkeypatch.undo()
    assert llm.n_tokens == 200
    llm.eval(text(20, seed=2))
    assert llm.kv_stats().n_tokens == 220


# --- completions ---


def test_chat_completion_streamed_and_not(llm):
    messages = [{"role": "user", "content": "tell me " * 100}]
    whole = llm.create_chat_completion(messages, max_tokens=30, temperature=0)["choices"][0]["message"]["content"]
    llm.reset()
    chunks = list(llm.create_chat_completion(messages, max_tokens=30, temperature=0, stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert llm.kv_stats().n_evictions > 0


def test_call_and_tokenize(llm):
    assert llm.tokenize(b"ab", add_bos=False) == [3 + ord("a"), 3 + ord("b")]
    assert llm("x" * 500, max_tokens=5)["usage"]["prompt_tokens"] == 501
    assert llm.kv_stats().n_evictions > 0


def test_a_stopping_criterion_sees_the_newest_logits(llm):
    seen = []
    llm.create_completion(
        text(200), max_tokens=4, temperature=0, stopping_criteria=lambda ids, row: seen.append((len(ids), row.copy()))
    )
    assert [n for n, _ in seen][:4] == [200, 201, 202, 203]
    assert int(seen[0][1].argmax()) == llm._input_ids[200]
    assert seen[0][1].shape == (tiny_models.N_VOCAB,)


def test_logprobs_are_those_of_upstream(make_llama, tiny_llama):
    upstream = make_llama(tiny_llama, n_ctx=512, kv_budget=0, flash_attn=True, logits_all=True)
    mine = make_llama(tiny_llama, n_ctx=512, kv_budget=512, logits_all=True)
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


def test_sampling_with_nothing_read_is_an_error_not_a_crash(llm):
    with pytest.raises(RuntimeError, match="eval"):
        llm.sample()


# --- states ---


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


# --- errors ---


def test_unknown_keyword_is_refused_with_the_nearest_name(tiny_llama):
    with pytest.raises(TypeError, match=r"unknown keyword 'kv_bugdet': did you mean 'kv_budget'\?"):
        Llama(tiny_llama, kv_bugdet=64)
    with pytest.raises(TypeError, match="unknown keyword 'zzz'$"):
        Llama(tiny_llama, zzz=1)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kv_budget=20, kv_recent=64), "kv_budget = 20: allowed is 0 .off. or at least kv_sink . kv_recent . 1 = 69"),
        (dict(kv_budget=-5), "kv_budget = -5: allowed is"),
        (dict(kv_budget="lots"), "kv_budget = lots: allowed is"),
        (dict(kv_budget=2**31), "kv_budget = 2147483648: allowed is"),
        (dict(kv_budget=64, kv_policy="best"), "kv_policy = best: allowed is one of capkv, "),
        (dict(kv_budget=64, n_batch=32, kv_headroom=8), "kv_headroom = 8: allowed is at least n_batch = 32"),
        (dict(kv_budget="1B"), "kv_budget = 1 bytes: allowed is at least"),
        (dict(kv_budget=64, flash_attn=False), "flash_attn = False: with kv_budget = 64 allowed is True"),
        (dict(kv_budget=64, embedding=True), "embedding = True: with kv_budget = 64 allowed is False"),
    ],
)
def test_wrong_options_name_option_value_and_range(tiny_llama, options, message):
    with pytest.raises(ValueError, match=message):
        Llama(tiny_llama, verbose=False, **options)
    Llama(tiny_llama, verbose=False, **BUDGET).close()


def test_flash_attention_is_on_by_itself(llm, make_llama, tiny_llama):
    import llama_cpp

    assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert make_llama(tiny_llama).context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED


def test_the_environment_decides_where_nothing_is_given(make_llama, tiny_llama, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "100")
    assert make_llama(tiny_llama, n_batch=32).kv_config.budget == 100
    assert make_llama(tiny_llama, n_batch=32, kv_budget=0).kv_config is None


def test_files_that_are_no_model(tmp_path, tiny_llama):
    (tmp_path / "cut.gguf").write_bytes(tiny_llama.read_bytes()[:-50000])
    (tmp_path / "head.gguf").write_bytes(tiny_llama.read_bytes()[:100])
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "empty.gguf").touch()
    for name, kind, message in [
        ("none.gguf", FileNotFoundError, "no such model file: .*none.gguf"),
        (".", IsADirectoryError, "folder"),
        ("text.gguf", ValueError, "not a GGUF file .it begins with b'hell'.: .*text.gguf"),
        ("empty.gguf", ValueError, "not a GGUF file"),
        ("cut.gguf", ValueError, "cannot load .*cut.gguf: .*not within the file bounds"),
        ("head.gguf", ValueError, "cannot load .*head.gguf: .+"),
    ]:
        with pytest.raises(kind, match=message):
            Llama(tmp_path / name, verbose=False, **BUDGET)


@pytest.mark.parametrize("write, arch", [(tiny_models.write_bert, "bert"), (tiny_models.write_mamba, "mamba")])
def test_models_that_cannot_have_a_budget_are_refused_by_name(write, arch, tmp_path, make_llama):
    path = tmp_path / f"{arch}.gguf"
    write(path)
    with pytest.raises(ValueError, match=f"kv_budget is not possible for the architecture '{arch}'"):
        Llama(path, verbose=False, **BUDGET)
    make_llama(path, n_ctx=64, embedding=arch == "bert")


def test_a_failed_context_frees_the_model_and_spares_the_next(tmp_path, tiny_llama, make_llama, monkeypatch):
    from llama_cpp import _internals

    closed = []
    monkeypatch.setattr(
        _internals.LlamaModel, "close", lambda self, close=_internals.LlamaModel.close: (closed.append(1), close(self))
    )
    with pytest.raises(ValueError, match="kv_headroom"):
        Llama(tiny_llama, verbose=False, kv_budget=64, n_batch=32, kv_headroom=8)
    assert closed
    assert make_llama(tiny_llama, n_ctx=64).kv_config is None


def test_closing_twice_or_half_made_is_fine(tiny_llama):
    llm = Llama(tiny_llama, verbose=False, **BUDGET)
    llm.close()
    llm.close()
    Llama.__new__(Llama).close()
