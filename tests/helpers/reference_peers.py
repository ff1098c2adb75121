"""Float64 NumPy references of the policies of other papers, and of the capacity, written from their formulas.

k [n_head_kv, n, d_k] after RoPE, v [n_head_kv, n, d_v], pos [n_head_kv, n] ascending positions; queries before RoPE and where
they were asked: q [m, n_head, d_k], q_pos [m]. Each takes all of them by keyword and returns scores [n_head_kv, n].
"""

import numpy as np
from reference import leverage as leverage_under
from reference import rope, unit


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def causal_attention(k, pos, q, q_pos, base, neox, scale=None, rotation=None, **_):
    """Mean over the queries of their attention weights, each over the entries up to its own position: [n_head, n]."""
    n_head_kv, n, d_k = k.shape
    group = q.shape[1] // n_head_kv
    w = np.zeros((q.shape[1], n))
    for j, p in enumerate(q_pos):
        for h in range(q.shape[1]):
            g = h // group
            query = rope(q[j, h], p, base, neox, **(rotation or {})) if base else np.float64(q[j, h])
            n_vis = max(1, int((pos[g] <= p).sum()))
            w[h, :n_vis] += softmax(k[g, :n_vis].astype(np.float64) @ query * (scale or 1 / np.sqrt(d_k)))
    return w / len(q_pos)


def group_mean(x, n_head_kv):
    return x.reshape(n_head_kv, -1, x.shape[-1]).mean(1)


def uniform(k):
    return np.full((len(k), k.shape[1]), 1 / k.shape[1])


def tova(k, q=None, q_pos=None, **args):
    if q is None:
        return uniform(k)
    return group_mean(causal_attention(k=k, q=q[-1:], q_pos=q_pos[-1:], **args), len(k))


def h2o(k, q=None, q_pos=None, **args):
    return uniform(k) if q is None else group_mean(causal_attention(k=k, q=q, q_pos=q_pos, **args), len(k))


def snapkv(k, q=None, q_pos=None, kernel=5, **args):
    if q is None:
        return uniform(k)
    n_prefix = k.shape[1] - min(len(q), k.shape[1])
    out = np.full(k.shape[:2], 2.0)  # the window is kept: more than any weight
    w = group_mean(causal_attention(k=k, q=q, q_pos=q_pos, **args), len(k))[:, :n_prefix]
    padded = np.pad(w, ((0, 0), (kernel // 2, kernel // 2)))
    out[:, :n_prefix] = np.mean([padded[:, i : i + n_prefix] for i in range(kernel)], axis=0)
    return out


def expected_weights(k, q_mean, q_cov, next_pos, base, neox, first, n_future=512, scale=None, rotation=None, **_):
    """Attention expected of normally distributed queries, over the entries from `first` on: [n_head, n]."""
    d = k.shape[-1]
    scale = scale or 1 / np.sqrt(d)
    turn = np.eye(d)
    if base:
        turn = rope(turn[:, None], next_pos + np.arange(n_future), base, neox, **(rotation or {})).mean(1).T
    out = np.zeros((len(q_mean), k.shape[1]))
    for h, (mean, cov) in enumerate(zip(np.float64(q_mean), np.float64(q_cov))):
        mu, s, keys = turn @ mean, turn @ cov @ turn.T, np.float64(k[h * len(k) // len(q_mean), first:])
        out[h, first:] = softmax(scale * keys @ mu + scale**2 / 2 * np.einsum("ni,ij,nj->n", keys, s, keys))
    return out


def expected(k, v, q_mean=None, n_sink=4, **args):
    norm = np.linalg.norm(np.float64(v), axis=-1)
    if q_mean is None:
        return uniform(k) * norm
    return group_mean(expected_weights(k=k, q_mean=q_mean, first=min(n_sink, k.shape[1] - 1), **args), len(k)) * norm


def keydiff(k, **_):
    k = np.float64(k)
    return np.array([-(unit(x) @ unit(unit(x).mean(0))) for x in k])


def knorm(k, **_):
    return -np.linalg.norm(np.float64(k), axis=-1)


def leverage(k, pos, base=0.0, neox=True, ridge=0.01, rotation=None, **_):
    x = rope(k, -np.asarray(pos), base, neox, **(rotation or {})) if base else np.float64(k)
    ridges = ridge * (x**2).sum((1, 2)) / x.shape[-1]
    x = x - x.mean(1, keepdims=True)
    return np.array([leverage_under(np.ones(len(y)), y, 0.0, r, 0.0, 0) for y, r in zip(x, ridges)])


def streaming(k, **_):
    return np.tile(np.arange(k.shape[1], dtype=np.float64), (len(k), 1))


def capacity(w, v, ridge):
    """1/2 log det(I + sum_i w_i v_i v_i^T / ridge) in nats; w [n], v [n, d]."""
    v = np.float64(v)
    return np.linalg.slogdet(np.eye(v.shape[1]) + (v * w[:, None]).T @ v / ridge)[1] / 2
