"""Float64 NumPy references of the policies, written from their formulas and not from native/.

k [n_head_kv, n, d_k] after RoPE, v [n_head_kv, n, d_v], queries before RoPE. Scores: [n_head_kv, n].
"""

import numpy as np

N_RES_OFFSET = 256
SPREAD = 0.5  # weight of the variance of a logit
MASK = (1 << 64) - 1


def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def res_offsets(seed: int, n: int) -> np.ndarray:
    return np.array([splitmix64((splitmix64(0x0FF5E7 + seed) + j) & MASK) % N_RES_OFFSET for j in range(n)])


def frequencies(base, n_rot, factors=None, yarn=None):
    """The frequency of each rotated pair, and the factor that the rotation scales by.

    factors [n_rot/2] divide; yarn (factor, n_ctx_orig) interpolates the slow pairs, as in arXiv 2309.00071 with beta 32 and 1.
    """
    freq = base ** (-np.arange(0, n_rot, 2) / n_rot) / (1 if factors is None else np.asarray(factors, np.float64))
    if yarn is None:
        return freq, 1.0
    factor, n_ctx_orig = yarn
    low, high = (n_rot * np.log(n_ctx_orig / (beta * 2 * np.pi)) / (2 * np.log(base)) for beta in (32, 1))
    low, high = max(0, np.floor(low)), min(n_rot - 1, np.ceil(high))
    slow = np.clip((np.arange(n_rot // 2) - low) / max(0.001, high - low), 0, 1)
    return freq * (1 - slow) + freq / factor * slow, 1 + 0.1 * np.log(factor)


def rope(x, pos, base, neox, n_rot=None, gain=1.0, **scaling):
    """Rotate the first n_rot of x [..., d] to pos [...]: pairs are halves (neox) or neighbours; gain [d]: of a norm after it."""
    x = np.broadcast_to(np.asarray(x, np.float64), (*np.broadcast_shapes(x.shape[:-1], np.shape(pos)), x.shape[-1]))
    d = n_rot or x.shape[-1]
    freq, scale = frequencies(base, d, **scaling)
    theta = np.asarray(pos, np.float64)[..., None] * freq
    cos, sin = scale * np.cos(theta), scale * np.sin(theta)
    first, second = (slice(0, d // 2), slice(d // 2, d)) if neox else (slice(0, d, 2), slice(1, d, 2))
    a, b = x[..., first], x[..., second]
    out = x.copy()
    out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
    return out * gain


def hadamard(x):
    """The rotation under which llama.cpp stores a quantized K: blocks of the largest power of two that divides d."""
    d = x.shape[-1]
    n = d & -d
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return (x.reshape(*x.shape[:-1], d // n, n) @ h / np.sqrt(n)).reshape(x.shape)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def leverage(w, v, eps, ridge_abs, ridge_rel, first):
    """w_i v_i^T A^-1 v_i, with A over the entries from `first` on; w [n], v [n, d]."""
    m = (v[first:] * (w[first:, None] + eps)).T @ v[first:]
    d = v.shape[-1]
    a = m + (ridge_abs + ridge_rel * np.trace(m) / d + 1e-30) * np.eye(d)
    return w * np.einsum("nd,dn->n", v, np.linalg.solve(a, v.T))


def as_is(x):
    return x


def anchor_weights(k, q_mean, next_pos, base, neox, first, tau=5.0, n_future=512, k_rot=as_is, rotation=None):
    """exp(tau (cos(k_i, mu) - max_j cos(k_j, mu))), the maximum from `first` on: [n_head, n]."""
    k, q_mean = np.asarray(k, np.float64), np.asarray(q_mean, np.float64)
    mu = rope(q_mean[:, None], next_pos + np.arange(n_future), base, neox, **(rotation or {})).mean(1) if base else q_mean
    c = np.array([np.clip(unit(k[h * len(k) // len(mu)]) @ unit(m), -1, 1) for h, m in enumerate(k_rot(mu))])
    return np.exp(tau * (c - c[:, first:].max(1, keepdims=True)))


def capkv_ref(k, v, q_mean, next_pos, base, neox, n_sink=4, eps=1e-6, **options):
    """options: of anchor_weights(); rotation: rope()'s, k_rot: what k is stored under besides, hadamard or nothing."""
    k, v = np.asarray(k, np.float64), np.asarray(v, np.float64)
    first = min(n_sink, k.shape[1] - 1)
    group = len(q_mean) // len(k)
    out = np.zeros(k.shape[:2])
    for h, w in enumerate(anchor_weights(k, q_mean, next_pos, base, neox, first, **options)):
        out[h // group] += leverage(w, v[h // group], eps, 1.0, 0.0, first) / group
    return out


def zscore(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-10)


def capkv(*args, novelty=0.25, **kwargs):
    """k, v, q_res [n_res, n_head, d_k] or None, next_pos, base, neox."""
    log_lev, cos = capkv_terms(*args, **kwargs)
    return np.array([zscore(a) - novelty * zscore(b) for a, b in zip(log_lev, cos)])


def future_attention(k, q_res, next_pos, base, neox, seed=1, scale=None, k_rot=as_is, rotation=None):
    """Attention expected of queries like the sampled ones at future positions: [n_head, n]; equal weights without queries."""
    n_head_kv, n, d_k = k.shape
    if q_res is None:
        return np.full((n_head_kv, n), 1 / n)
    q = np.asarray(q_res, np.float64)
    pos = next_pos + res_offsets(seed, len(q))
    q = k_rot(rope(q, np.broadcast_to(pos[:, None], q.shape[:2]), base, neox, **(rotation or {})) if base else q)
    out = np.zeros((q.shape[1], n))
    for h in range(q.shape[1]):
        logits = q[:, h] @ k[h * n_head_kv // q.shape[1]].T * (scale or 1 / np.sqrt(d_k))
        x = logits.mean(0) + SPREAD * logits.var(0)
        p = np.exp(x - x.max())
        out[h] = p / p.sum() + 1e-20
    return out


def capkv_terms(k, v, q_res, next_pos, base, neox, seed=1, ridge=1.0, scale=None, k_rot=as_is, rotation=None):
    """The two terms before they are standardised: log leverage and cosine to the mean key, [n_head_kv, n] each."""
    k, v = np.asarray(k, np.float64), np.asarray(v, np.float64)
    w = future_attention(k, q_res, next_pos, base, neox, seed, scale, k_rot, rotation)
    group = len(w) // len(k)
    lev = np.zeros(k.shape[:2])
    for h, weights in enumerate(w):
        lev[h // group] += leverage(weights, v[h // group], 0.0, 0.0, ridge, 0) / group
    kn = unit(k)
    cos = np.array([x @ unit(x.mean(0)) for x in kn])
    return np.log(np.maximum(lev, 1e-30)), cos
