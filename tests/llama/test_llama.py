"""Llama with a budget: reading, prefix reuse, states and errors, mostly on a tiny model with random weights."""

import numpy as np
import pytest
from driving import BUDGET, complete, go_on, text

from capkv_edge import Llama


# --- reading ---


def test_budget_resolves_and_the_context_stays_long(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=4096, **BUDGET)
    assert llm.n_ctx() == 4096
    config = llm.kv_config
    assert (config.budget, config.sink, config.recent, config.headroom) == (64, 4, 32, 32)
    stats = llm.kv_stats()
    assert (stats.n_tokens, stats.n_used, stats.n_evictions) == (0, 0, 0)
    assert stats.n_cells < 4096 and stats.compression > 1
    assert llm.kv_layers == [0, 1] and llm.kv_heads(0) == 2


def test_a_budget_as_memory_or_share(make_llama, tiny_llama):
    assert make_llama(tiny_llama, kv_budget="10%", n_batch=32).kv_config.budget == 409
    for kind, size in (("f16", 2 * 64), ("q8_0", 68)):  # bytes of K in a cell, and of V
        assert make_llama(tiny_llama, kv_budget="128KiB", n_batch=32, kv_type=kind).kv_config.budget == 128 * 1024 // (2 * 2 * size)


def test_a_long_text_leaves_sinks_tail_and_a_middle_per_head(llm, held):
    tokens = text(2000)
    llm.eval(tokens)
    stats = llm.kv_stats()
    assert llm.input_ids[: llm.n_tokens].tolist() == tokens
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
    roomy = make_llama(tiny_llama, n_ctx=256, kv_budget=256, kv_type="f16")
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


def test_kept_is_the_share_of_heads_that_hold_a_token(llm, held):
    assert llm.kv_kept().shape == (0,)
    llm.eval(text(60))
    assert llm.kv_kept().dtype == np.float32 and (llm.kv_kept() == 1).all()
    llm.eval(text(240, seed=1))
    kept, stats = llm.kv_kept(), llm.kv_stats()
    counts = sum(np.isin(np.arange(300), positions) for positions in held(llm))
    assert kept.shape == (300,) and (kept == counts / 4).all()
    assert (kept[:4] == 1).all() and (kept[stats.pos_tail :] == 1).all()
    assert {0, 1} < set(kept.tolist()) <= {0, 0.25, 0.5, 0.75, 1}  # the heads do not agree on the middle
    assert round(kept.sum() * 4) == 4 * stats.n_used


def test_kept_ends_where_the_text_was_taken_back_to(llm):
    llm.eval(text(300))
    llm.n_tokens = 290
    assert len(llm.kv_kept()) == 290


def test_rewinding_inside_the_exact_tail_is_as_if_the_rest_had_not_been_read(make_llama, tiny_llama, llm):
    llm.eval(text(300))
    n = llm.kv_stats().pos_tail + 5
    llm.rewind(n)
    assert llm.n_tokens == n == llm.kv_stats().n_tokens
    with pytest.raises(RuntimeError, match="there are no logits"):
        llm.sample()
    plain = make_llama(tiny_llama, **BUDGET)
    plain.eval(text(300))
    plain.n_tokens = n
    assert go_on(llm, 20) == go_on(plain, 20)
    llm.rewind(0)
    assert llm.n_tokens == llm.kv_stats().n_tokens == 0


def test_rewinding_behind_the_exact_tail_is_refused_and_changes_nothing(llm, held):
    llm.eval(text(300))
    before, n_tail = [one.tolist() for one in held(llm)], llm.kv_stats().pos_tail
    with pytest.raises(RuntimeError, match=f"cannot go back to token {n_tail - 1}: from {n_tail} on all are held"):
        llm.rewind(n_tail - 1)
    assert llm.n_tokens == 300 and [one.tolist() for one in held(llm)] == before
    for n in (-1, 301):
        with pytest.raises(ValueError, match=f"n_tokens = {n}: allowed is 0 to 300"):
            llm.rewind(n)
    assert llm.sample() >= 0


def test_without_a_budget_the_kv_methods_say_so(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=256)
    assert llm.kv_config is None
    for call in (llm.kv_stats, llm.kv_kept, llm.compress, lambda: llm.kv_positions(0, 0), lambda: llm.kv_layers, lambda: llm.kv_heads(0)):
        with pytest.raises(RuntimeError, match="no KV budget: give kv_budget"):
            call()


# --- prefix reuse ---


def test_a_prompt_that_goes_on_is_not_read_again(llm):
    first = text(600)
    complete(llm, first)
    n_before = llm.kv_stats().n_evicted
    complete(llm, llm.input_ids[: llm.n_tokens].tolist() + text(40, seed=1))
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


def test_chat_completion_streamed_and_not(make_llama, demo_model):
    # a model that writes UTF-8: upstream's stream leaves characters out behind a byte that is none
    llm = make_llama(demo_model, kv_budget=100, kv_recent=16, n_batch=64)
    messages = [{"role": "user", "content": "tell me " * 100}]
    whole = llm.create_chat_completion(messages, max_tokens=30, temperature=0)["choices"][0]["message"]["content"]
    llm.reset()
    chunks = list(llm.create_chat_completion(messages, max_tokens=30, temperature=0, stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert llm.kv_stats().n_evictions > 0


def test_a_chat_is_continued_without_reading_it_again(make_llama, demo_model):
    llm = make_llama(demo_model, kv_budget=128, kv_recent=16, n_batch=64)
    messages = []
    for i in range(6):
        messages.append({"role": "user", "content": f"Question {i}: " + "please go on with the story. " * 6})
        reply = llm.create_chat_completion(messages, max_tokens=8, temperature=0)["choices"][0]["message"]
        messages.append({"role": "assistant", "content": reply["content"]})
    stats = llm.kv_stats()
    assert stats.n_evictions > 0 and llm.n_rereads == 0
    assert stats.n_tokens == llm.n_tokens > 300


def test_speculative_decoding_gives_the_same_text(make_llama, tiny_llama):
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    prompt = text(30) * 10
    plain = make_llama(tiny_llama, kv_budget=400, n_batch=64)
    drafting = make_llama(tiny_llama, kv_budget=400, n_batch=64, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=5))
    assert complete(drafting, prompt, n=60) == complete(plain, prompt, n=60)
    assert complete(drafting, text(600), n=60)
    assert drafting.kv_stats().n_evictions > 0


def test_call_and_tokenize(llm):
    assert llm.tokenize(b"ab", add_bos=False) == [3 + ord("a"), 3 + ord("b")]
    assert llm("x" * 500, max_tokens=5)["usage"]["prompt_tokens"] == 501
    assert llm.kv_stats().n_evictions > 0


def test_sampling_with_nothing_read_is_an_error_not_a_crash(llm):
    with pytest.raises(RuntimeError, match="eval"):
        llm.sample()


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

    assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    assert make_llama(tiny_llama).context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED


def test_the_environment_decides_where_nothing_is_given(make_llama, tiny_llama, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "100")
    assert make_llama(tiny_llama, n_batch=32).kv_config.budget == 100
    assert make_llama(tiny_llama, n_batch=32, kv_budget=0).kv_config is None


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
