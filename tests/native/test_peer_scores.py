"""Native scorers of the other papers' policies against their float64 references, by the CPU's kernels for each target and by the graph."""

import numpy as np
import pytest
import reference_peers
from hypothesis import given, settings
from hypothesis import strategies as st
from scorer import NEOX, NO_ROPE, NORM, cpu_paths, devices, score

POLICIES = ("expected", "snapkv", "h2o", "tova", "keydiff", "knorm", "leverage")

N, GROUP, N_HEAD_KV = st.integers(1, 70), st.sampled_from([1, 2, 5]), st.integers(1, 3)
SHAPES = st.tuples(N, GROUP, N_HEAD_KV, st.sampled_from([2, 8, 34]), st.sampled_from([1, 8, 30]))
KINDS = st.sampled_from(["plain", "constant k", "zero v", "huge", "duplicates"])
TILES = st.sampled_from([0, 9, 32])  # entries that the graph takes at once
PATHS = st.sampled_from(cpu_paths())


def make(shape, kind, n_q, seed):
    """Arguments that scorer.score() and the references share, of adversarial kinds."""
    n, group, n_head_kv, d_k, d_v = shape
    rng = np.random.default_rng(seed)
    k, v = (rng.normal(size=(n_head_kv, n, d)).astype(np.float32) for d in (d_k, d_v))
    if kind == "constant k":
        k[:] = k[:, :1]
    elif kind == "zero v":
        v[:] = 0
    elif kind == "huge":
        k, v = k * 30, v * 100
    elif kind == "duplicates":
        k[:, n // 2 :], v[:, n // 2 :] = k[:, :1], v[:, :1]
    # an angle in f32 is exact to 1e-7 of the position, which huge logits blow up
    next_pos = int(rng.integers(2 * n + 40, 5000 if kind != "huge" else 200))
    pos = np.sort([rng.choice(next_pos, n, replace=False) for _ in range(n_head_kv)], axis=1).astype(np.int32)
    q = rng.normal(size=(40, n_head_kv * group, d_k)).astype(np.float32)
    cov = np.einsum("thi,thj->hij", q - q.mean(0), q - q.mean(0)) / len(q)
    q_pos = np.sort(rng.choice(next_pos, n_q, replace=False)).astype(np.int32)
    return dict(k=k, v=v, pos=pos, q_mean=q.mean(0), q_cov=cov, q=q[:n_q], q_pos=q_pos, next_pos=next_pos)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None)
@given(SHAPES, KINDS, st.sampled_from([NORM, NEOX, NO_ROPE]), st.sampled_from([0, 1, 2, 33]), st.integers(0, 2**32), PATHS, TILES)
def test_a_policy_equals_its_reference(policy, device, shape, kind, rope, n_q, seed, path, n_tile):
    args = make(shape, kind, n_q if policy != "tova" else min(n_q, 1), seed) | dict(base=0.0 if rope == NO_ROPE else 10000.0)
    if n_q == 0:
        args |= dict(q=None, q_pos=None, q_mean=None, q_cov=None)
    group = shape[1]
    got = score(policy, rope=rope, device=device, n_tile=n_tile, **path, n_head=shape[2] * group, **args)
    want = getattr(reference_peers, policy)(neox=rope == NEOX, **args)
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= 1e-4 * max(np.abs(want).max(), 1e-6)
