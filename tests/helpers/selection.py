"""What an eviction must keep: the reference's scores of a saved sequence, and a comparison with the entries that were kept."""

from dataclasses import dataclass, field

import numpy as np
import reference
import reference_peers

# entries may swap if their scores differ by less, in standard deviations of all scores
NEAR = 1e-4  # since float32 rounds
NEAR_ON_DEVICE = 1e-2  # since devices may round factors of matrix products to 10 bits


@dataclass
class Attention:
    """How a layer's attention rotates and scales."""

    base: float = 10000.0  # of RoPE; 0: the layer has no RoPE
    neox: bool = False
    scale: float = None  # of the logits; None: 1/sqrt(d_k)
    rotation: dict = field(default_factory=dict)  # more options of reference.rope()


def arguments(seq, layer, attention):
    """The arguments of the references in reference_peers. K is after RoPE, and without the Hadamard rotation of a quantized K."""
    quantized = layer.type_k in (2, 3, 6, 7, 8)
    k = reference.hadamard(layer.k) if quantized and layer.d_k % 64 == 0 else layer.k
    next_pos = int(seq.pos_cells.max()) + 1 - seq.offset  # all positions are those that the attention sees
    args = dict(k=k, v=layer.v, pos=layer.pos - seq.offset, next_pos=next_pos, base=attention.base, neox=attention.neox)
    if layer.q_mean is not None:
        args |= dict(q_mean=layer.q_mean)
    if layer.q_cov is not None:
        args |= dict(q_cov=layer.q_cov - np.einsum("hi,hj->hij", layer.q_mean, layer.q_mean))
    if layer.q_res is not None and len(layer.q_res):
        args |= dict(q=layer.q_res, q_pos=seq.res_pos[seq.res_pos >= 0] - seq.offset)
    if layer.q_last is not None and len(layer.q_last):
        args |= dict(q=layer.q_last, q_pos=np.sort(seq.last_pos[seq.last_pos >= 0]) - seq.offset)
    return args | dict(scale=attention.scale, rotation=attention.rotation)


def scores(policy, seq, layer, attention):
    args = arguments(seq, layer, attention)
    if policy == "leverage":
        args |= dict(pos=layer.rope_pos)  # its keys are rotated back
    if policy not in ("capkv", "capkv-ref"):
        return getattr(reference_peers, policy)(**args)
    k, v, next_pos, base, neox, rotation = (args[name] for name in ("k", "v", "next_pos", "base", "neox", "rotation"))
    if policy == "capkv":
        return reference.capkv(k, v, args["q"], next_pos, base, neox, scale=attention.scale, rotation=rotation)
    return reference.capkv_ref(k, v, args["q_mean"], next_pos, base, neox, rotation=rotation)


def weights(policy, seq, layer, attention, n_sink=4):
    """Those of the capacity: per KV head [n_head_kv, n], zero where an entry does not count."""
    args = arguments(seq, layer, attention)
    first = min(n_sink, layer.k.shape[1] - 1)
    some = {name: args[name] for name in ("k", "next_pos", "base", "neox", "rotation")}
    if policy == "capkv":
        w = reference.future_attention(q_res=args["q"], scale=attention.scale, **some)
    elif policy == "capkv-ref":
        w = reference.anchor_weights(q_mean=args["q_mean"], first=first, **some) + 1e-6
        w[:, :first] = 0
    elif policy == "expected":
        w = reference_peers.expected_weights(first=first, **args)
    elif policy in ("snapkv", "h2o", "tova"):
        w = reference_peers.causal_attention(**args)
    else:
        w = reference_peers.uniform(layer.k)
    return reference_peers.group_mean(w, len(layer.k))


def capacity(policy, seq, layer, attention, kept):
    """(kept, all) in nats, summed over the KV heads; kept: positions of each."""
    out = np.zeros(2)
    for head, w in enumerate(weights(policy, seq, layer, attention)):
        v = np.float64(layer.v[head])
        ridge = 1.0 if policy == "capkv-ref" else 0.1 * ((v**2).sum(1) * w).sum() / v.shape[1]
        stay = np.isin(layer.pos[head], kept[head])
        out += reference_peers.capacity(w * stay, v, ridge), reference_peers.capacity(w, v, ridge)
    return out


def check_kept(kept, pos, score, budget, n_sink, n_recent, pinned=(), near=NEAR):
    """Check the positions `kept` by one head after an eviction down to `budget`. pos, score: of its entries before.
    pinned: positions that stay whatever their scores are. near: entries may swap if their scores differ by less.

    Returns how many entries were swapped with others of nearly the same score.
    """
    n = len(pos)
    middle = np.arange(n_sink, n - n_recent)
    stay, middle = middle[np.isin(pos[middle], pinned)], middle[~np.isin(pos[middle], pinned)]
    n_best = budget - n_sink - n_recent - len(stay)
    best = middle[np.lexsort((-middle, -score[middle]))][:n_best]  # of equal scores the later entry
    want = np.sort(np.concatenate([np.arange(n_sink), stay, best, np.arange(n - n_recent, n)]))
    kept = np.asarray(kept)
    assert len(kept) == budget and (np.diff(kept) > 0).all()
    assert (kept[:n_sink] == pos[:n_sink]).all() and (kept[budget - n_recent :] == pos[n - n_recent :]).all()

    mine = np.flatnonzero(np.isin(pos, kept))
    assert len(mine) == budget, "a position was kept that was not there"
    edge = score[best[-1]]
    swapped = np.setxor1d(mine, want)
    assert not np.isin(swapped, stay).any(), "a pinned entry was dropped"
    distance = np.abs(score[swapped] - edge) / max(score[middle].std(), 1e-30)
    assert (distance < near).all(), f"positions {pos[swapped]} are {distance} away from the last score that stays"
    return len(swapped) // 2
