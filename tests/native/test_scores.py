"""Native scorers against the vectors of the authors' code, and against float64 references."""

from pathlib import Path

import numpy as np
import pytest
import reference
import reference_peers
from hypothesis import given, settings
from hypothesis import strategies as st
from scorer import NEOX, NO_ROPE, NORM, cpu_paths, cpu_targets, devices, score

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "data" / "smollm2_a_scores.npz")
LAYERS = (0, 7, 15, 22, 29)


def golden_args(layer):
    return GOLDEN[f"l{layer}_k"], GOLDEN[f"l{layer}_v"], GOLDEN[f"l{layer}_q_mean"]


PATHS = cpu_paths()
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.get("target", "graph"))


@each_path
@pytest.mark.parametrize("layer", LAYERS)
def test_capkv_ref_equals_the_authors_code(layer, path):
    k, v, q_mean = golden_args(layer)
    n_sink = int(GOLDEN["n_sink"])
    rope = dict(next_pos=int(GOLDEN["next_pos"]), base=float(GOLDEN["rope_theta"]), rope=NEOX)
    got = score("capkv-ref", k, v, q_mean=q_mean, **path, **rope)
    want = GOLDEN[f"l{layer}_score"]
    error = np.abs(got - want)[:, n_sink:].max() / np.abs(want[:, n_sink:]).max()
    assert error <= 1e-4


@pytest.mark.parametrize("layer", LAYERS)
def test_reference_equals_the_authors_code(layer):
    k, v, q_mean = golden_args(layer)
    n_sink = int(GOLDEN["n_sink"])
    got = reference.capkv_ref(k, v, q_mean, int(GOLDEN["next_pos"]), float(GOLDEN["rope_theta"]), neox=True)
    want = GOLDEN[f"l{layer}_score"]
    assert np.abs(got - want)[:, n_sink:].max() / np.abs(want[:, n_sink:]).max() <= 1e-4


@each_path
@pytest.mark.parametrize("layer", LAYERS)
def test_capkv_equals_its_reference_on_real_keys(layer, path):
    k, v, q_mean = golden_args(layer)
    q_res = q_mean[None] + np.random.default_rng(layer).normal(size=(64, *q_mean.shape)).astype(np.float32)
    args = dict(next_pos=512, base=float(GOLDEN["rope_theta"]))
    want = reference.capkv(k, v, q_res, neox=True, **args)
    got = score("capkv", k, v, q=q_res, rope=NEOX, **path, **args)
    assert np.abs(got - want).max() / np.abs(want).max() <= 1e-4


ANY_PATH = st.sampled_from(PATHS)
# odd sizes, so that nothing rests on a power of two
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 4), st.integers(1, 3), st.sampled_from([2, 8, 34]), st.sampled_from([1, 8, 30]))
KINDS = st.sampled_from(["plain", "constant k", "zero v", "huge", "duplicates"])
TILES = st.sampled_from([0, 9, 32])  # entries that the graph takes at once


def make(shape, kind, seed):
    n, group, n_head_kv, d_k, d_v = shape
    rng = np.random.default_rng(seed)
    k = rng.normal(size=(n_head_kv, n, d_k)).astype(np.float32)
    v = rng.normal(size=(n_head_kv, n, d_v)).astype(np.float32)
    q = rng.normal(size=(7, n_head_kv * group, d_k)).astype(np.float32)
    if kind == "constant k":
        k[:] = k[:, :1]
    elif kind == "zero v":
        v[:] = 0
    elif kind == "huge":
        v *= 100
        k *= 30
    elif kind == "duplicates":
        k[:, n // 2 :], v[:, n // 2 :] = k[:, :1], v[:, :1]
    return k, v, q


@pytest.mark.parametrize("device", devices())
@settings(max_examples=150, deadline=None)
@given(SHAPES, KINDS, st.sampled_from([NORM, NEOX, NO_ROPE]), st.integers(0, 5000), st.integers(0, 2**32), ANY_PATH, TILES)
def test_capkv_ref_equals_its_reference(device, shape, kind, rope, next_pos, seed, path, n_tile):
    k, v, q = make(shape, kind, seed)
    base = 0.0 if rope == NO_ROPE else 10000.0
    want = reference.capkv_ref(k, v, q[0], next_pos, base, neox=rope == NEOX)
    got = score("capkv-ref", k, v, q_mean=q[0], next_pos=next_pos, base=base, rope=rope, device=device, n_tile=n_tile, **path)
    assert np.isfinite(got).all()
    # without the kernels of the CPU the sum that stands under the ridge of 1 is an f32: at 1e6 its rounding is a tenth of it
    tolerance = 2e-2 if kind == "huge" and ("graph_only" in path or device != "CPU") else 1e-4
    ranked = slice(min(4, len(k[0]) - 1), None)  # the sinks are not in the sum, and nothing is done with their scores
    assert np.abs(got - want)[:, ranked].max() <= tolerance * max(np.abs(want[:, ranked]).max(), 1e-6)


@pytest.mark.parametrize("device", devices())
@settings(max_examples=150, deadline=None)
@given(SHAPES, KINDS, st.sampled_from([NORM, NEOX, NO_ROPE]), st.integers(0, 5000), st.integers(0, 2**32), st.booleans(), ANY_PATH, TILES)
def test_capkv_equals_its_reference(device, shape, kind, rope, next_pos, seed, with_q, path, n_tile):
    k, v, q = make(shape, kind, seed)
    base = 0.0 if rope == NO_ROPE else 10000.0
    next_pos %= 200 if kind == "huge" else 5001  # an angle in f32 is exact to 1e-7 of the position, which huge logits blow up
    want = reference.capkv(k, v, q if with_q else None, next_pos, base, neox=rope == NEOX)
    args = dict(next_pos=next_pos, base=base, rope=rope, device=device, n_tile=n_tile, **path)
    got = score("capkv", k, v, q=q if with_q else None, **args)
    assert np.isfinite(got).all()
    spread = [np.array(t).std(1) for t in reference.capkv_terms(k, v, q if with_q else None, next_pos, base, neox=rope == NEOX)]
    # a term that hardly varies is standardised from what f32 leaves of it: of nothing but rounding any finite score will do
    least = np.minimum(*spread)
    real = least > 1e-5
    tolerance = 1e-4 + 1e-6 / least[real]
    assert (np.abs(got - want).max(1)[real] <= tolerance * np.abs(want).max(1)[real]).all()


def test_streaming_prefers_the_later():
    k = np.ones((3, 50, 8), np.float32)
    np.testing.assert_array_equal(score("streaming", k, k), reference_peers.streaming(k))


def test_random_is_seeded_and_differs_between_heads_layers_and_evictions():
    k = np.ones((2, 400, 8), np.float32)
    base = score("random", k, k)
    np.testing.assert_array_equal(base, score("random", k, k))
    assert abs(base.mean() - 0.5) < 0.05
    others = [score("random", k, k, options={"seed": 7}), score("random", k, k, il=1), score("random", k, k, n_evictions=1), base[::-1]]
    for other in others:
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.15


def test_groups_of_heads_are_scored_alike():
    """Many heads are scored in groups, to bound the work memory: the result is that of each head alone."""
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 8, 4096, 128)).astype(np.float32)
    q = rng.normal(size=(4, 32, 128)).astype(np.float32)
    both = score("capkv", k, v, q=q, next_pos=9, base=1e4, rope=NORM)
    for g in (0, 5, 7):
        one = score("capkv", k[g : g + 1], v[g : g + 1], q=q[:, g * 4 : g * 4 + 4], next_pos=9, base=1e4, rope=NORM)
        np.testing.assert_allclose(both[g], one[0], atol=2e-3)


@pytest.mark.skipif(len(cpu_targets()) < 2, reason="the kernels for the CPU are compiled for one target")
def test_the_target_that_is_asked_for_is_used():
    """Targets add in other orders, so their last bits differ."""
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 2, 200, 64)).astype(np.float32)
    q = rng.normal(size=(64, 4, 64)).astype(np.float32)
    best, other = (score("capkv", k, v, q=q, target=name) for name in (None, cpu_targets()[1]))
    np.testing.assert_array_equal(best, score("capkv", k, v, q=q, target=cpu_targets()[0]))
    assert 0 < np.abs(best - other).max() < 1e-3


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(target="mmx"), "name = mmx: allowed is one of " + ", ".join(cpu_targets())),
        (dict(device="GPU9"), "device = GPU9: allowed is one of CPU"),
        (dict(policy="nope"), "kv_policy = nope: allowed is one of capkv, capkv-ref, expected, "),
        (dict(options={"tau": -1}), "kv_tau = -1: allowed is 0 to 100"),
    ],
)
def test_errors_name_the_option_and_what_is_allowed(change, message):
    k = np.ones((1, 4, 8), np.float32)
    with pytest.raises(ValueError, match=message):
        score(**{"policy": "capkv", "k": k, "v": k, **change})
