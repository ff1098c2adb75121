"""One sequence in one context: the same logits as Llama, marks, the context shift."""

import llama_cpp
import numpy as np
import pytest

from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.setups import Setup

TOKENS = np.random.default_rng(3).integers(3, 259, 700)


def rows_of(stream, tokens, scored):
    found = {}
    stream.read(tokens, scored, lambda indices, rows: found.update(zip(indices.tolist(), rows.copy())))
    return found


SETUPS = ["full", "q8_0", "capkv@100", "streaming@100", "shift@100", "random@100:q4_0"]


@pytest.mark.parametrize("name", SETUPS)
def test_rows_come_for_the_tokens_that_were_asked_for_and_no_others(engine, name):
    with engine.open(Setup.parse(name), 700) as stream:
        scored = [0, 1, 57, 300, 301, 699]
        found = rows_of(stream, TOKENS, scored)
        assert list(found) == scored and stream.n_tokens == 700
        assert np.array_equal(found[699], stream.last())


@pytest.mark.parametrize("name", SETUPS)
def test_back_at_a_mark_everything_is_as_it_was(engine, name):
    with engine.open(Setup.parse(name), 900) as stream:
        stream.read(TOKENS[:333])
        stream.compress()
        mark = stream.mark()
        memory = stream.memory()
        replies = []
        for _ in range(3):
            stream.read(TOKENS[333:340])
            replies.append((stream.last().tobytes(), stream.generate(200)))
            stream.back(mark)
            assert stream.n_tokens == 333
            assert stream.memory()["n_evicted"] == memory["n_evicted"]
        assert replies[0] == replies[1] == replies[2]


@pytest.mark.parametrize("name", SETUPS)
def test_what_was_saved_goes_on_in_another_stream_as_in_its_own(engine, name, tmp_path):
    setup = Setup.parse(name)
    with engine.open(setup, 900) as stream:
        stream.read(TOKENS[:333])
        stream.save(tmp_path / "state")
        stream.read(TOKENS[333:])
        reply, memory = stream.last().tobytes(), stream.memory()
    with engine.open(setup, 900) as stream:
        stream.load(tmp_path / "state")
        stream.read(TOKENS[333:])
        assert stream.n_tokens == 700 and stream.memory()["n_evicted"] == memory["n_evicted"]
        assert setup.policy == "shift" or stream.last().tobytes() == reply  # a shift's cells come back in another order
        with pytest.raises(RuntimeError, match="could not be read"):
            stream.load(tmp_path / "none")


@pytest.mark.parametrize("name", ["full", "q8_0"])
def test_what_was_saved_can_be_held_several_times(engine, name, tmp_path):
    with engine.open(Setup.parse(name), 900, repeats=True) as stream:
        stream.read(TOKENS[:200])
        stream.save(tmp_path / "state")
        size, one = (tmp_path / "state").stat().st_size, rows_of(stream, TOKENS[200:260], [59 + 200])[259]
        stream.repeat(tmp_path / "state", 4)
        assert stream.n_tokens == 800 and not np.array_equal(rows_of(stream, TOKENS[200:260], [859])[859], one)
        stream.save(tmp_path / "state")
        assert 860 / 200 * 0.9 * size < (tmp_path / "state").stat().st_size < 860 / 200 * 1.1 * size
        memory = llama_cpp.llama_get_memory(stream.ctx)
        assert [llama_cpp.llama_memory_seq_pos_max(memory, seq) for seq in (0, 1)] == [259, -1]


def test_a_budget_is_the_one_that_llama_has(engine, make_llama):
    setup = Setup.parse("capkv@100")
    llm = make_llama(engine.path, n_ctx=700, n_batch=setup.n_batch, kv_budget=100, kv_headroom=setup.n_batch, kv_type="f16")
    llm.eval(TOKENS.tolist())
    with engine.open(setup, 700) as stream:
        stream.read(TOKENS)
        stats = llm.kv_stats()
        assert stream.memory()["n_evictions"] == stats.n_evictions > 0
        assert stream.memory()["bytes_total"] == stats.bytes_total
        from capkv_edge.llama.logits import row_of

        assert np.array_equal(stream.last(), row_of(llm, -1))


def test_without_an_eviction_a_budget_reads_as_the_full_cache_does(engine):
    found = []
    for name in ("full", "capkv@600"):
        with engine.open(Setup.parse(name), 700, n_batch=64) as stream:
            stream.read(TOKENS[:600])
            assert stream.memory()["n_evictions"] == 0
            found.append(stream.last().copy())
    assert np.array_equal(*found)


def test_a_shift_keeps_the_first_tokens_and_never_holds_more_than_its_cells(engine):
    setup = Setup.parse("shift@100")
    with engine.open(setup, 4000) as stream:
        for i in range(0, 700, 50):
            stream.read(TOKENS[i : i + 50])
            memory = stream.memory()
            assert stream.n_tokens - memory["n_evicted"] <= memory["n_cells"] == setup.n_cells
        assert memory["n_evictions"] > 2


def test_compressing_leaves_as_many_entries_as_the_budget(engine):
    with engine.open(Setup.parse("capkv@100"), 700) as stream:
        stream.read(TOKENS[:200])
        stream.compress()
        assert stream.memory()["n_evicted"] == 100


def test_bytes_of_quantized_caches_are_smaller_by_their_types(engine):
    assert engine.bytes_per_token("f32") == 2 * engine.bytes_per_token("f16")
    assert engine.bytes_per_token("q8_0") / engine.bytes_per_token("f16") == pytest.approx(34 / 64)
    assert engine.bytes_per_token("q4_0") / engine.bytes_per_token("f16") == pytest.approx(18 / 64)


def test_a_model_that_can_have_no_budget_says_why(tmp_path):
    import tiny_models

    path = tmp_path / "mamba.gguf"
    tiny_models.write_mamba(path)
    with Engine(path, n_threads=1) as engine, pytest.raises(ValueError, match="mamba.*capkv@100"):
        engine.open(Setup.parse("capkv@100"), 512)


def test_text_goes_through_the_tokenizer_and_back(engine):
    text = "In dunkler Nacht, 42 mal: naïve <s>"
    assert engine.detokenize(engine.tokenize(text)).replace("▁", " ") == text  # the tiny vocabulary writes blanks so
    assert "[user]hi" in engine.chat([{"role": "user", "content": "hi"}])


def test_prompts_do_not_depend_on_the_day_nor_leave_room_to_think(engine, monkeypatch):
    template = "{{ date_string if date_string is defined else strftime_now('%d') }} {{ enable_thinking }}{{ messages[0].content }}"
    engine.__dict__.pop("_template", None)
    monkeypatch.setattr(engine.model, "metadata", lambda: {"tokenizer.chat_template": template})
    assert engine.chat([{"role": "user", "content": "!"}]) == "1 Jan 2026 False!"
    engine.__dict__.pop("_template", None)


def test_a_budget_reads_on_past_the_trained_length(engine):
    with engine.open(Setup.parse("capkv@100"), 5000) as stream:
        stream.read(np.resize(TOKENS, 5000))
        memory = stream.memory()
        assert stream.n_tokens == 5000 > engine.n_ctx_train and memory["n_cells"] <= 512
        assert memory["bytes_full"] == 5000 * engine.bytes_per_token("f16")
        assert stream._kv.is_endless and len(stream.generate(10)) > 0
    with engine.open(Setup.parse("capkv@100"), 4096) as stream:
        assert not stream._kv.is_endless


@pytest.mark.parametrize("name", SETUPS)
def test_a_stream_that_was_cleared_reads_as_a_new_one(engine, name):
    with engine.open(Setup.parse(name), 700) as stream:
        expected = rows_of(stream, TOKENS, [300, 699])
        stream.clear()
        assert stream.n_tokens == 0
        found = rows_of(stream, TOKENS, [300, 699])
    if name != "random@100:q4_0":  # its numbers go on from eviction to eviction
        assert all(np.array_equal(found[i], expected[i]) for i in expected)


def test_a_full_cache_is_read_by_the_threads_and_in_the_batches_of_its_name(engine):
    for name, n_threads, n_batch in (("full", 1, 512), ("full,threads=2", 2, 512), ("full,batch=32", 1, 32)):
        with engine.open(Setup.parse(name), 1024) as stream:
            assert (llama_cpp.llama_n_threads(stream.ctx), llama_cpp.llama_n_threads_batch(stream.ctx)) == (n_threads, n_threads)
            assert llama_cpp.llama_n_batch(stream.ctx) == stream.n_batch == n_batch
