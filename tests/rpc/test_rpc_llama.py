"""A Llama whose layers are on two RPC servers against one whose layers are all in this process."""

import re

import llama_cpp
import numpy as np
import pytest
from driving import go_on, text
from golden_run import GOLDEN

from capkv_edge import policies

KINDS = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}
EXACT = ("streaming", "random")  # their scores are no sums, which round
MOST_NMSE = {"f16": 5e-4, "q8_0": 5e-3}  # of logits: quantized cells round once more

TINY = dict(n_ctx=4096, n_batch=32, kv_budget=64, kv_recent=16)
DEMO = dict(n_ctx=2048, n_batch=256, kv_budget=192)
TEXT = GOLDEN["tokens"].tolist()[:600]


def logits(llm) -> np.ndarray:
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),)).copy()


def nmse(got, want) -> float:
    return float(((got - want) ** 2).mean() / (want**2).mean())


def iou(a, b) -> float:
    """Intersection over union of the positions that the heads hold, the mean over all of them."""
    return float(np.mean([len(np.intersect1d(x, y)) / len(np.union1d(x, y)) for x, y in zip(a, b, strict=True)]))


def shares(llm) -> dict:
    """{server, or CPU: percent of the cache that is there}."""
    return {server or name: int(share) for name, server, share in re.findall(r"(\w+)(?:\[(.*?)\])? \((\d+)%\)", llm.cache_device)}


@pytest.fixture
def both(monkeypatch, make_llama, servers):
    """Makes two Llamas of the same options: on the servers, and in this process, where weights are laid out as they are there."""

    def plain_weights(default=llama_cpp.llama_model_default_params):
        params = default()
        params.use_extra_bufts = False  # another layout has other kernels, which round in another order
        return params

    monkeypatch.setattr(llama_cpp, "llama_model_default_params", plain_weights)

    def make(path, n_gpu_layers=-1, **options):
        away = make_llama(path, rpc_servers=servers, n_gpu_layers=n_gpu_layers, **options)
        return away, make_llama(path, n_gpu_layers=0, **options)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", policies())
def test_heads_keep_what_they_keep_in_one_process(both, servers, tiny_llama, held, policy, kind):
    away, here = both(tiny_llama, kv_policy=policy, kv_type=kind, tensor_split=[1, 4], **TINY)
    assert set(shares(away)) == set(servers.split(",")) and here.cache_device == "CPU"
    for llm in (away, here):
        llm.eval(text(600))
    assert away.kv_stats().n_evictions == here.kv_stats().n_evictions > 0
    if policy in EXACT:
        assert iou(held(away), held(here)) == 1.0
        assert nmse(logits(away), logits(here)) <= MOST_NMSE[kind]
    assert iou(held(away), held(here)) >= 0.97


@pytest.mark.parametrize("policy", ["capkv", "capkv-ref", "expected", "snapkv"])
def test_the_demo_model_says_what_it_says_in_one_process(both, servers, demo_model, held, policy):
    away, here = both(demo_model, kv_policy=policy, kv_type="f16", **DEMO)
    assert set(shares(away)) == set(servers.split(",")) and min(shares(away).values()) >= 40
    for llm in (away, here):
        llm.eval(TEXT)
    assert away.kv_stats().n_evictions == here.kv_stats().n_evictions > 0
    assert iou(held(away), held(here)) >= 0.995
    assert nmse(logits(away), logits(here)) <= MOST_NMSE["f16"]


def test_quantized_cells_on_two_servers_are_those_of_one(both, make_llama, servers, demo_model, held):
    """In this process attention reads quantized cells as F32, which rounds otherwise than the CPU of a server does."""
    away, here = both(demo_model, kv_type="q8_0", **DEMO)
    one = make_llama(demo_model, rpc_servers=servers.split(",")[:1], kv_type="q8_0", **DEMO)
    for llm in (away, here, one):
        llm.eval(TEXT)
    assert iou(held(away), held(one)) == 1.0 and (logits(away) == logits(one)).all()
    assert iou(held(away), held(here)) >= 0.95
    assert nmse(logits(away), logits(here)) <= MOST_NMSE["q8_0"]


def test_with_half_of_the_layers_on_the_servers(both, servers, demo_model, held):
    away, here = both(demo_model, n_gpu_layers=16, kv_type="f16", **DEMO)
    assert set(shares(away)) == {"CPU", *servers.split(",")} and shares(away)["CPU"] == 50
    for llm in (away, here):
        llm.eval(TEXT)
    assert iou(held(away), held(here)) >= 0.995
    assert nmse(logits(away), logits(here)) <= MOST_NMSE["f16"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["capkv", "expected", "h2o"])  # a sample of queries, sums of them, the last ones
def test_states_go_to_the_servers_and_back(both, tiny_llama, held, policy, kind):
    away, here = both(tiny_llama, kv_policy=policy, kv_type=kind, tensor_split=[1, 4], **TINY)
    away.eval(text(600))
    state, kept, want = away.save_state(), held(away), go_on(away, 100)
    away.load_state(state)
    assert go_on(away, 100) == want
    for llm in (here, away):
        llm.reset()
        llm.load_state(state)
        assert iou(held(llm), kept) == 1.0 and llm.save_state().llama_state == state.llama_state
        llm.eval([5])
    assert nmse(logits(away), logits(here)) <= MOST_NMSE[kind]


def test_a_session_file_of_the_servers_goes_on_here(both, tiny_llama, held, tmp_path):
    away, here = both(tiny_llama, tensor_split=[1, 4], **TINY)
    away.eval(text(600))
    away.save_session(tmp_path / "a.session")
    here.load_session(tmp_path / "a.session")
    assert iou(held(away), held(here)) == 1.0 and here.n_tokens == 600


def test_a_model_that_names_no_servers_does_not_use_them(both, make_llama, tiny_llama):
    both(tiny_llama, tensor_split=[1, 4], **TINY)
    assert make_llama(tiny_llama, **TINY).cache_device == "CPU"
