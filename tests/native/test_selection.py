"""What stays after an eviction is what the float64 reference picks from the same keys, values and observed queries."""

import numpy as np
import pytest
import saved_state
import tiny_archs
import tiny_models
from driving import text
from selection import Attention, check_kept, scores

BUDGET, SINK, RECENT = 64, 4, 16
D = 32  # of a head, in all models here
POLICIES = ["capkv", "capkv-ref"]
FACTORS = np.linspace(1, 8, D // 2)
GAIN = np.linspace(0.3, 1.7, D)

NORM, NEOX = Attention(), Attention(neox=True)
NO_ROPE = Attention(base=0)

# name: (writer, layers that the budget governs, attention of the i-th of them)
MODELS = {
    "llama with as many KV heads as heads": (lambda p: tiny_models.write_llama(p, n_head_kv=4), [0, 1], lambda il: NORM),
    "llama with heads that hold no whole blocks of a quantized query": (
        lambda p: tiny_models.write_llama(p, n_embd=96),
        [0, 1],
        lambda il: NORM,
    ),
    "llama with groups of heads": (tiny_models.write_llama, [0, 1], lambda il: NORM),
    "qwen3, q-norm and k-norm": (lambda p: tiny_archs.write_decoder(p, "qwen3", qk_norm=True), [0, 1], lambda il: NEOX),
    "gemma 3, windows": (tiny_models.write_gemma3, [5], lambda il: Attention(base=1e6, neox=True)),
    "smollm3, layers without RoPE": (
        lambda p: tiny_archs.write_decoder(p, "smollm3", n_layer=4),
        [0, 1, 2, 3],
        lambda il: NO_ROPE if il == 3 else NORM,
    ),
    "lfm2, attention and convolutions": (tiny_archs.write_lfm2, [1, 3], lambda il: NEOX),
    "jamba, attention and mamba": (tiny_archs.write_jamba, [1, 3], lambda il: NO_ROPE),
    "yarn": (tiny_archs.write_yarn, [0, 1], lambda il: Attention(rotation=dict(yarn=(4.0, 256)))),
    "frequency factors": (
        lambda p: tiny_archs.write_freqs(p, FACTORS),
        [0, 1],
        lambda il: Attention(rotation=dict(factors=FACTORS)),
    ),
    "stablelm, a part is rotated": (tiny_archs.write_partial, [0, 1], lambda il: Attention(neox=True, rotation=dict(n_rot=8))),
    "qwen2-vl, M-RoPE": (tiny_archs.write_mrope, [0, 1], lambda il: NEOX),
    "gemma 4, layers that share a cache": (
        lambda p: tiny_archs.write_gemma4(p, FACTORS),
        [1, 3],
        lambda il: Attention(base=1e6, neox=True, scale=1.0, rotation=dict(factors=FACTORS)),
    ),
    "deci, layers of their own head counts": (tiny_archs.write_uneven, [0, 3, 4], lambda il: NORM),
    "hunyuan, a norm after RoPE": (
        lambda p: tiny_archs.write_norm_after_rope(p, GAIN),
        [0, 1],
        lambda il: Attention(neox=True, rotation=dict(gain=GAIN)),
    ),
    "ministral, a temperature after RoPE": (tiny_archs.write_temperature, [0, 1], lambda il: NORM),
}


@pytest.fixture(scope="module")
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("arch") / "model.gguf"
    MODELS[request.param][0](path)
    return request.param, path


def last_logits(llm):
    return np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), (llm.n_vocab(),)).copy()


def make(make_llama, path, policy, **options):
    options = dict(n_ctx=4096, n_batch=32, kv_budget=BUDGET, kv_recent=RECENT, kv_policy=policy) | options
    return make_llama(path, **options)


def evict_and_compare(llm, policy, attention_of, has_ext=False, rounds=3):
    """Several evictions of one sequence, each compared for all layers and heads; returns the share of near-ties that swapped."""
    tokens, n_swapped, n_kept = text(200 * rounds), 0, 0
    for i in range(rounds):
        llm.eval(tokens[i * 200 : (i + 1) * 200])
        assert np.isfinite(last_logits(llm)).all()
        before = saved_state.parse(saved_state.save(llm.ctx), has_ext)
        assert llm.compress() == len(before.pos_cells) - BUDGET
        for il, layer in zip(llm.kv_layers, before.layers, strict=True):
            score = scores(policy, before, layer, attention_of(il))
            assert np.isfinite(score).all() and score.std() > 0
            for head in range(layer.n_head_kv):
                kept = llm.kv_positions(il, head)
                n_swapped += check_kept(kept, layer.pos[head], score[head], BUDGET, SINK, RECENT)
                n_kept += BUDGET
    llm.eval(tokens[:10])
    assert np.isfinite(last_logits(llm)).all()
    assert llm.kv_stats().n_evictions >= rounds
    return n_swapped / n_kept


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_the_reference_would_keep_the_same(make_llama, model, policy):
    name, path = model
    _, layers, attention_of = MODELS[name]
    llm = make(make_llama, path, policy)
    assert llm.kv_layers == layers
    assert evict_and_compare(llm, policy, attention_of, has_ext="M-RoPE" in name) < 0.01


@pytest.mark.parametrize("policy", POLICIES)
def test_the_reference_would_keep_the_same_once_entries_have_new_positions(make_llama, tiny_llama, policy):
    llm = make(make_llama, tiny_llama, policy, kv_reindex="always")
    assert evict_and_compare(llm, policy, lambda il: NORM) < 0.01
    assert llm.kv_stats().pos_offset > 500


def test_heads_that_are_scored_one_after_the_other_look_at_queries_of_their_own(make_llama, tmp_path):
    """So many entries that the work of two heads would be too much at once."""
    tiny_models.write_llama(tmp_path / "model.gguf", n_ctx=8192, n_layer=1)
    llm = make(make_llama, tmp_path / "model.gguf", "capkv", n_ctx=8192, n_batch=512, kv_budget=6400)
    llm.eval(text(6000))
    before = saved_state.parse(saved_state.save(llm.ctx))
    assert llm.compress(512) == 6000 - 512
    score = scores("capkv", before, before.layers[0], NORM)
    for head in (0, 1):
        check_kept(llm.kv_positions(0, head), before.layers[0].pos[head], score[head], 512, SINK, RECENT)


def test_what_is_observed_is_the_sample_that_the_seed_names(make_llama, tiny_llama):
    llm = make(make_llama, tiny_llama, "capkv", kv_seed=7)
    llm.eval(text(200))
    llm.compress()
    llm.eval(text(90))
    seq = saved_state.parse(saved_state.save(llm.ctx))
    assert set(seq.res_pos) == saved_state.sampled_positions(290, seed=7)
    assert saved_state.sampled_positions(290, seed=7) != saved_state.sampled_positions(290, seed=1, n_res=48)


# as in ggml.h
TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}
MIXED = [("q8_0", "q4_0"), ("f16", "q8_0"), ("q4_0", "f16"), ("bf16", "q5_1"), ("f32", "bf16"), ("q5_0", "q4_1")]


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory):
    """Heads of 64: from there on llama.cpp stores quantized keys and values rotated."""
    path = tmp_path_factory.mktemp("wide") / "model.gguf"
    tiny_models.write_llama(path, n_embd=256)
    return path


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("k, v", [(name, name) for name in TYPES] + MIXED)
def test_the_reference_would_keep_the_same_of_every_cache_type(make_llama, wide_llama, policy, k, v):
    llm = make(make_llama, wide_llama, policy, type_k=TYPES[k], type_v=TYPES[v])
    assert evict_and_compare(llm, policy, lambda il: NORM) < 0.01


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_heads_too_narrow_to_be_rotated(make_llama, tiny_llama, kind):
    llm = make(make_llama, tiny_llama, "capkv", type_k=TYPES[kind], type_v=TYPES[kind])
    assert evict_and_compare(llm, "capkv", lambda il: NORM) < 0.01
