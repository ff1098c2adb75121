"""capkv_edge/bench/random_gguf/writer.py: every shape and type loads, decodes with and without a budget, and behaves like a model."""

import dataclasses

import gguf
import numpy as np
import pytest

from capkv_edge.bench.random_gguf import writer
from capkv_edge.bench.random_gguf.blocks import K_QUANTS, TYPES, Matrices, n_bytes_of_row, type_for
from capkv_edge.bench.random_gguf.shapes import SHAPES
from capkv_edge.llama import logits

N_TEXT = 400  # more than the 256 cells that a cache is padded to


def small(name, **sizes):
    """A shape of few layers, a vocabulary of bytes and narrow feed-forward parts: attention is as it is."""
    shape = writer.override(SHAPES[name], n_layer=6 if SHAPES[name].window else 1, n_vocab=259, n_ctx=1024)
    return dataclasses.replace(shape, n_ff=256, **({"window": 64} if shape.window else {}), **sizes)


def last_logits(llm, text):
    llm.reset()
    llm.eval(text)
    return logits.row_of(llm, -1).copy()


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_decodes_with_and_without_a_budget(name, tmp_path, make_llama):
    path = tmp_path / "model.gguf"
    shape = small(name)
    writer.write(path, shape)
    text = np.random.default_rng(1).integers(3, 259, N_TEXT).tolist()
    full = make_llama(path, n_ctx=512, n_batch=64, flash_attn=True)
    assert full._model.n_embd() == shape.n_embd and full.n_vocab() == 259
    rows = [last_logits(full, text), last_logits(full, [text[0] ^ 1] + text[1:])]
    assert np.isfinite(rows).all() and 0.5 < np.std(rows[0]) < 4
    assert not np.array_equal(*rows), "the first token is attended to"
    budgeted = make_llama(path, n_ctx=512, n_batch=64, kv_budget=80)
    row = last_logits(budgeted, text)
    assert np.isfinite(row).all() and budgeted.kv_stats().n_evictions > 0
    assert not np.array_equal(row, rows[0]), "what was evicted is missed"


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_has_the_spread_that_was_asked_for_and_decodes(kind, tmp_path, make_llama):
    parts = list(Matrices(0).rows(kind, (300, 512), 0.05))
    raw = np.concatenate(parts)
    assert raw.shape == (300, n_bytes_of_row(kind, 512))
    qtype = gguf.GGMLQuantizationType[kind]
    values = raw.view(np.float32) if kind == "F32" else gguf.quants.dequantize(raw, qtype)
    assert values.shape == (300, 512) and abs(values.std() - 0.05) < 0.002 and abs(values.mean()) < 0.002
    assert len(np.unique(raw, axis=0)) == 300
    path = tmp_path / "model.gguf"
    writer.write(path, small("smollm2-135m", n_embd=512, n_head=8, n_head_kv=2), kind)
    row = last_logits(make_llama(path, n_ctx=256, kv_budget=64, n_batch=32), list(range(3, 180)))
    assert np.isfinite(row).all() and 0.5 < np.std(row) < 4


def test_attention_neither_looks_at_all_alike_nor_at_one_token_alone(tmp_path, make_llama):
    """The leverage of what is kept differs from a window's, so heads keep different tokens."""
    path = tmp_path / "model.gguf"
    writer.write(path, small("qwen3-0.6b"))
    llm = make_llama(path, n_ctx=512, n_batch=64, kv_budget=96, kv_policy="h2o")
    llm.eval(np.random.default_rng(2).integers(3, 259, 400).tolist())
    held = [set(llm.kv_positions(0, head)) for head in range(llm.kv_heads(0))]
    old = [len([p for p in h if 4 <= p < 300]) for h in held]
    assert min(old) > 0 and held[0] != held[1]


def test_the_same_options_give_the_same_file_and_another_seed_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        writer.write(tmp_path / name, small("llama-3.2-1b"), "Q4_K", seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b and a != c and len(a) == len(c)


@pytest.mark.parametrize("kind", K_QUANTS)
def test_rows_that_do_not_fit_a_k_quant_get_smaller_blocks(kind):
    assert type_for(kind, 512) == kind and type_for(kind, 576) == K_QUANTS[kind][2]
    with pytest.raises(ValueError, match="rows of 40: allowed are multiples of 32"):
        type_for(kind, 40)


def test_a_vocabulary_of_full_size_tokenizes_bytes(tmp_path, make_llama):
    path = tmp_path / "model.gguf"
    writer.write(path, dataclasses.replace(small("smollm2-135m"), n_vocab=49152), "Q4_0")
    llm = make_llama(path, n_ctx=256, flash_attn=True)
    assert llm.n_vocab() == 49152
    tokens = llm.tokenize("Grüße\n".encode(), add_bos=False)
    assert max(tokens) < 259 and llm.detokenize(tokens).decode() == "Grüße\n"


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("llama-3.2-1b", dict(n_vocab=100), "--vocab 100: allowed is 259 or more"),
        ("llama-3.2-1b", dict(n_layer=0), "--layers 0: allowed is 1 or more"),
        ("gemma-3-1b", dict(n_layer=5), "--layers 5: allowed is 6 or more for gemma-3-1b"),
    ],
)
def test_sizes_out_of_range_are_refused(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        writer.override(SHAPES[name], **sizes)


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--type Q9: allowed are F32, F16"):
        writer.write(tmp_path / "x", small("llama-3.2-1b"), "Q9")
