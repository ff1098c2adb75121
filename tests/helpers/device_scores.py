"""Scores that a device computes, and how close they are to the float64 references: for tests/device/ and scripts/checks/gpu/."""

import numpy as np
import reference
import reference_peers
import scorer

POLICIES = ("capkv", "capkv-ref", "expected", "snapkv", "h2o", "tova", "keydiff", "knorm", "leverage")

# entries, query heads per KV head, KV heads, d_k, d_v
SHAPES = {"odd sizes": (61, 3, 2, 34, 30), "8B": (1536, 4, 8, 128, 128), "wide heads": (700, 4, 1, 256, 256)}

MOST_NMSE = 5e-4  # the limit of llama.cpp's test-backend-ops for matrix products, which may round to TF32
LEAST_KEPT = 0.97  # share of the entries with the better half of the reference's scores that the device's better half has too

N_SINK = 4  # entries whose scores do not count


def nmse(got: np.ndarray, want: np.ndarray) -> float:
    """The mean squared error, divided by the mean square of what is wanted."""
    return float(((got - want) ** 2).mean() / max((want**2).mean(), 1e-30))


def score_both(policy: str, shape: tuple, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n_head_kv, n]: those of the device, without the fused CPU kernels, and those of the reference."""
    n, group, n_head_kv, d_k, d_v = shape
    rng = np.random.default_rng(n)
    k, v = (rng.normal(size=(n_head_kv, n, d)).astype(np.float32) for d in (d_k, d_v))
    q = rng.normal(size=(64, n_head_kv * group, d_k)).astype(np.float32) + rng.normal(size=(1, n_head_kv * group, d_k)).astype(np.float32)
    rope = dict(next_pos=2 * n, base=10000.0)
    if policy == "capkv-ref":
        given = dict(q_mean=q.mean(0))
        want = reference.capkv_ref(k, v, q.mean(0), neox=True, **rope)
    elif policy == "capkv":
        given = dict(q=q)
        want = reference.capkv(k, v, q, neox=True, **rope)
    else:
        cov = np.einsum("thi,thj->hij", q - q.mean(0), q - q.mean(0)) / len(q)
        pos = np.sort([rng.choice(2 * n, n, replace=False) for _ in range(n_head_kv)], axis=1).astype(np.int32)
        n_q = 1 if policy == "tova" else 33
        q_pos = np.sort(rng.choice(2 * n, n_q, replace=False)).astype(np.int32)
        given = dict(pos=pos, q_mean=q.mean(0), q_cov=cov, q=q[:n_q], q_pos=q_pos)
        want = getattr(reference_peers, policy)(k=k, v=v, neox=True, **given, **rope)
    got = scorer.score(policy, k, v, rope=scorer.NEOX, device=device, graph_only=True, n_head=n_head_kv * group, **given, **rope)
    return got, want


def kept_share(got: np.ndarray, want: np.ndarray) -> float:
    """Share of the better half of the entries by `want` that is in the better half by `got`, mean over heads."""
    half = got.shape[1] // 2
    best = [np.argsort(-x, axis=1)[:, :half] for x in (got, want)]
    return float(np.mean([len(np.intersect1d(a, b)) / half for a, b in zip(*best)]))


def compare(policy: str, shape: tuple, device: str) -> tuple[float, float]:
    """(NMSE of the device's scores, share of the better half of the entries that its better half has too), both without sinks."""
    got, want = (scores[:, N_SINK:] for scores in score_both(policy, shape, device))
    return nmse(got, want), kept_share(got, want)
