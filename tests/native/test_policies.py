"""Every policy in a running cache: what stays is what its reference picks, and the capacity retained is NumPy's."""

import gguf
import numpy as np
import pytest
import saved_state
import tiny_archs
import tiny_models
from driving import text
from selection import Attention, capacity, check_kept, scores

import capkv_edge

BUDGET, SINK, RECENT = 64, 4, 16

# name: (writer, type of K and V, attention)
MODELS = {
    "f32": (tiny_models.write_llama, 0, Attention()),
    "rotated q8_0": (lambda path: tiny_models.write_llama(path, n_embd=256), 8, Attention()),
    "yarn": (tiny_archs.write_yarn, 1, Attention(rotation=dict(yarn=(4.0, 256)))),
    "a part is rotated": (tiny_archs.write_partial, 1, Attention(neox=True, rotation=dict(n_rot=8))),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("policies") / "model.gguf"
    write, kind, attention = MODELS[request.param]
    write(path)
    return path, kind, attention


@pytest.mark.parametrize("policy", sorted(set(capkv_edge.policies()) - {"random"}))
def test_what_stays_and_the_capacity_retained_are_the_references(make_llama, model, policy):
    path, kind, attention = model
    options = dict(n_ctx=4096, n_batch=32, kv_budget=BUDGET, kv_recent=RECENT, kv_policy=policy, type_k=kind, type_v=kind)
    llm = make_llama(path, **options)
    tokens = text(600)
    n_swapped = 0
    for i in range(3):
        llm.eval(tokens[i * 200 : (i + 1) * 200])
        before = saved_state.parse(saved_state.save(llm.ctx))
        llm.compress()
        stats, retained = llm.kv_stats(), []
        for il, layer in zip(llm.kv_layers, before.layers, strict=True):
            kept = [llm.kv_positions(il, head) for head in range(layer.n_head_kv)]
            for head, score in enumerate(scores(policy, before, layer, attention)):
                n_swapped += check_kept(kept[head], layer.pos[head], score, BUDGET, SINK, RECENT)
            retained.append(capacity(policy, before, layer, attention, kept))
        shares = [some / whole for some, whole in retained]
        np.testing.assert_allclose(stats.capacity_layers, shares, rtol=1e-4)
        some, whole = np.sum(retained, axis=0)
        np.testing.assert_allclose(stats.capacity, some / whole, rtol=1e-4)
        assert 0 < stats.capacity <= 1
    assert n_swapped < 0.01 * 3 * BUDGET * sum(layer.n_head_kv for layer in before.layers)


def test_capacity_is_whole_until_something_is_evicted_and_is_saved(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, kv_budget=BUDGET, n_batch=32)
    llm.eval(text(100))
    assert llm.kv_stats().capacity == 1 and set(llm.kv_stats().capacity_layers) == {1}
    llm.eval(text(400))
    stats = llm.kv_stats()
    assert stats.capacity < 1 and len(stats.capacity_layers) == len(llm.kv_layers)
    state = llm.save_state()
    llm.reset()
    assert llm.kv_stats().capacity == 1
    llm.load_state(state)
    assert llm.kv_stats().capacity_layers == stats.capacity_layers


@pytest.mark.parametrize("policy", capkv_edge.policies())
def test_only_what_a_policy_declares_is_allocated(make_llama, tiny_llama, policy):
    n_layer, n_head, d = 2, 4, 32
    row, sums = d * n_head * 2, d * n_head * 4
    rows = (64 + 1) * row  # with a scratch row, as below
    sample = (90 + 1) * row * 17 // 32  # in q8_0
    want = {"capkv": sample, "h2o": rows, "snapkv": rows, "tova": 2 * row, "capkv-ref": sums, "expected": sums * (1 + d)}
    llm = make_llama(tiny_llama, kv_budget=BUDGET, n_batch=32, kv_policy=policy)
    assert llm.kv_stats().bytes_obs == n_layer * want.get(policy, 0)


def test_heads_that_are_not_whole_blocks_have_fewer_queries_in_as_many_bytes(make_llama, tmp_path):
    n_layer, n_head, d = 2, 4, 24
    tiny_models.write_llama(tmp_path / "model.gguf", n_embd=n_head * d)
    llm = make_llama(tmp_path / "model.gguf", kv_budget=BUDGET, n_batch=32)
    assert llm.kv_stats().bytes_obs == n_layer * (47 + 1) * d * n_head * 2  # and a scratch row
    llm.eval(text(400))
    seq = saved_state.parse(saved_state.save(llm.ctx))
    assert seq.q_type == gguf.GGMLQuantizationType.F16
    assert set(seq.res_pos) == saved_state.sampled_positions(400, n_res=47)
