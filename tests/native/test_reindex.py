"""New RoPE positions: keys rotated as a float64 reference rotates them, and callers who notice nothing of it."""

import llama_cpp
import numpy as np
import pytest
import reference
import saved_state
import tiny_archs
import tiny_models
from bare_context import Context
from driving import go_on, text

FACTORS = np.linspace(1, 4, 16)
GAIN = np.linspace(0.5, 1.5, 32)


def write_norm_after_rope(path):
    """Hunyuan, with weights of the norm of the keys that differ."""
    given = {f"blk.{i}.attn_k_norm.weight": GAIN.astype(np.float32) for i in range(2)}
    tiny_archs.write_decoder(path, "hunyuan-dense", qk_norm=True, given=given)


#: name: (writer, type of K, options of reference.rope())
KINDS = {
    "pairs of neighbours": (tiny_models.write_llama, 0, {}),
    "pairs of halves": (lambda path: tiny_archs.write_decoder(path, "qwen2"), 0, dict(neox=True)),
    "a part is rotated": (tiny_archs.write_partial, 0, dict(neox=True, n_rot=8)),
    "frequency factors": (lambda path: tiny_archs.write_freqs(path, FACTORS), 0, dict(factors=FACTORS)),
    "yarn": (tiny_archs.write_yarn, 0, dict(yarn=(4.0, 256))),
    "a norm after it": (write_norm_after_rope, 0, dict(neox=True, gain=GAIN)),
    "m-rope": (tiny_archs.write_mrope, 0, dict(neox=True)),
    "temperature": (tiny_archs.write_temperature, 0, {}),
    "f16": (tiny_models.write_llama, 1, {}),
    "q8_0": (tiny_models.write_llama, 8, {}),
    "rotated q8_0": (lambda path: tiny_models.write_llama(path, n_embd=256), 8, {}),
    "rotated q4_0": (lambda path: tiny_models.write_llama(path, n_embd=256), 2, {}),
}

ERROR = {0: 2e-4, 1: 2e-3, 8: 2e-2, 2: 0.2}  # of the largest component of a key, by the type that it is stored in


def rotate_by(k, delta, base=10000.0, neox=False, gain=1.0, **options):
    """k [..., d], which is rotated already and multiplied by gain, rotated by delta [...] positions more."""
    scale = reference.frequencies(base, options.get("n_rot") or k.shape[-1], options.get("factors"), options.get("yarn"))[1]
    return reference.rope(k / gain, delta, base, neox, **options) / scale * gain


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_rotated_as_the_reference_rotates_them(make_llama, tmp_path, kind):
    write, type_k, options = KINDS[kind]
    write(tmp_path / "m.gguf")
    has_ext = kind == "m-rope"
    llm = make_llama(tmp_path / "m.gguf", n_ctx=2048, n_batch=32, kv_budget=64, kv_recent=16, kv_reindex="always", type_k=type_k, type_v=0)
    llm.eval(text(100))
    for n_more in (0, 60):
        llm.eval(text(n_more, seed=1))
        before = saved_state.parse(saved_state.save(llm.ctx), has_ext)
        llm.compress()
        after = saved_state.parse(saved_state.save(llm.ctx), has_ext)
        n_far = 0
        for il, old, new in zip(llm.kv_layers, before.layers, after.layers, strict=True):
            is_rotated = type_k in (2, 8) and old.d_k % 64 == 0
            old_k, new_k = (reference.hadamard(layer.k) if is_rotated else layer.k for layer in (old, new))
            for head in range(new.n_head_kv):
                np.testing.assert_array_equal(new.rope_pos[head], np.arange(64))
                np.testing.assert_array_equal(new.rope_pos[head], llm._kv.positions(il, head, rope=True))
                at = np.searchsorted(old.pos[head], new.pos[head])
                np.testing.assert_array_equal(old.pos[head][at], new.pos[head])
                delta = new.rope_pos[head] - old.rope_pos[head][at]
                want = rotate_by(old_k[head][at].astype(np.float64), delta, **options)
                limit = ERROR[type_k] * np.abs(want).max()
                np.testing.assert_allclose(new_k[head], want, rtol=0, atol=limit)
                n_far += (np.abs(new_k[head] - old_k[head][at]).max(axis=1) > limit).sum()
        assert n_far > 50  # so the test sees keys that were not rotated
    assert llm.kv_stats().n_reindexes == 2 and llm.kv_stats().pos_offset == after.offset == llm.n_tokens - 64


@pytest.fixture(scope="module")
def short_llama(tmp_path_factory):
    """Trained to 256 tokens."""
    path = tmp_path_factory.mktemp("short") / "short.gguf"
    tiny_models.write_llama(path, n_ctx=256)
    return path


OPTIONS = dict(n_ctx=4096, kv_budget=64, kv_recent=16, n_batch=32)


def logits_of(llm, tokens):
    llm.eval(tokens)
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),)).copy()


def test_up_to_the_trained_length_nothing_changes_and_then_no_key_is_rotated_past_it(make_llama, short_llama, held):
    auto, never = (make_llama(short_llama, **OPTIONS, kv_reindex=mode) for mode in ("auto", "never"))
    tokens = text(2000)
    for i in range(0, 256, 32):
        np.testing.assert_array_equal(logits_of(auto, tokens[i : i + 32]), logits_of(never, tokens[i : i + 32]))
        assert auto.kv_stats().n_reindexes == 0
    assert all(np.array_equal(a, b) for a, b in zip(held(auto), held(never)))
    for i in range(256, 2000, 32):
        auto.eval(tokens[i : i + 32])
        stats = auto.kv_stats()
        assert all(auto._kv.positions(*head, rope=True).max() < 256 for head in auto._kv.heads)
        assert stats.n_tokens == auto.n_tokens and stats.pos_tail <= auto.n_tokens - 16
        assert all(np.array_equal(np.sort(kept), kept) and kept[-1] == auto.n_tokens - 1 for kept in held(auto))
    # each time the next 256 - 64 tokens fit
    assert stats.n_reindexes == 1 + (2000 - 256) // (256 - 64) and stats.n_pos_max == 256
    never.eval(tokens[256:])
    assert never.kv_stats().n_reindexes == never.kv_stats().pos_offset == 0


def test_single_tokens_pass_the_trained_length_too(make_llama, short_llama):
    """Fewer entries than the budget when the limit comes: they only move."""
    llm = make_llama(short_llama, **OPTIONS | dict(kv_budget=192))
    llm.eval(text(200))
    llm.compress(96)
    n_evicted, evictions = llm.kv_stats().n_evicted, llm.kv_stats().n_evictions
    before = [llm.kv_positions(*head) for head in llm._kv.heads]
    assert len(go_on(llm, 57)) == 57
    stats = llm.kv_stats()
    assert (stats.n_reindexes, stats.n_evicted, stats.n_evictions) == (1, n_evicted, evictions)
    assert stats.pos_tail == 200 - 16 and stats.capacity < 1
    for head, positions in zip(llm._kv.heads, before):
        np.testing.assert_array_equal(llm.kv_positions(*head)[:96], positions)
        np.testing.assert_array_equal(llm._kv.positions(*head, rope=True), np.arange(len(positions) + 57))


def test_a_rollback_over_a_change_of_the_offset_is_exact(make_llama, short_llama):
    llm = make_llama(short_llama, **OPTIONS)
    llm.eval(text(250))
    more = text(40, seed=3)
    want = [logits_of(llm, [token]) for token in more]
    assert llm.kv_stats().n_reindexes == 1
    llm.n_tokens -= 24  # evicted or not, the last 16 before the limit are in the tail, and what follows
    for token, logits in zip(more[-24:], want[-24:]):
        np.testing.assert_allclose(logits_of(llm, [token]), logits, atol=1e-4)
    assert llm.kv_stats().n_reindexes == 1


@pytest.fixture
def sequences(short_llama):
    context = Context(short_llama)
    yield context
    context.close()


def test_sequences_have_offsets_of_their_own_which_copies_and_states_carry(sequences):
    ctx = sequences

    def offsets():
        return [ctx.stats(seq).pos_offset for seq in range(3)]

    ctx.read(text(600), 0)
    ctx.read(text(100, seed=1), 1)
    one, two, _ = offsets()
    assert one > 0 and two == 0
    data = ctx.get(0)
    ctx.cp(0, 2)
    assert offsets() == [one, 0, one]
    want = ctx.go_on(40, 0)
    assert ctx.go_on(40, 2) == want
    assert ctx.rm(0, -1, -1) and offsets()[0] == 0
    for seq in (1, 0):
        assert ctx.set(data, seq) == len(data) and offsets()[seq] == one
        assert ctx.go_on(40, seq) == want


def test_windows_saved_before_a_change_of_the_offset_are_rotated_after_it(tmp_path):
    """A server's checkpoint of the window layers, which it restores when a text is taken back."""
    tiny_models.write_gemma3(tmp_path / "gemma.gguf", n_ctx=256)
    ctx = Context(tmp_path / "gemma.gguf", recent=16, type_k=0, type_v=0)
    ctx.read(text(250))
    windows = ctx.get_part(0)
    ctx.read(text(20, seed=1))
    assert ctx.stats(0).n_reindexes == 1 and ctx.stats(0).pos_tail <= 250
    assert ctx.rm(0, 250, -1)
    there = ctx.get(0)
    want, logits = ctx.go_on(30)
    assert ctx.set(there, 0) == len(there)
    assert ctx.set_part(windows, 0) == len(windows)
    again, same = ctx.go_on(30)
    assert again == want
    np.testing.assert_allclose(np.frombuffer(same, np.float32), np.frombuffer(logits, np.float32), atol=0.05)
    ctx.close()
