"""What an eviction has to keep: the reference's scores of a saved sequence, and the comparison with what was kept."""

from dataclasses import dataclass, field

import numpy as np
import reference

NEAR = 1e-4  # scores that differ by less, in standard deviations of all scores, may swap: float32 rounds


@dataclass
class Attention:
    """How a layer's attention looks at its keys."""

    base: float = 10000.0  # of RoPE; 0: the layer has none
    neox: bool = False
    scale: float = None  # of the logits; None: 1/sqrt(d_k)
    rotation: dict = field(default_factory=dict)  # more options of reference.rope()


def scores(policy, seq, layer, attention):
    quantized = layer.type_k in (2, 3, 6, 7, 8)
    k_rot = reference.hadamard if quantized and layer.d_k % 64 == 0 else reference.as_is
    next_pos = int(seq.pos_cells.max()) + 1
    args = (next_pos, attention.base, attention.neox)
    more = dict(k_rot=k_rot, rotation=attention.rotation)
    if policy == "capkv":
        return reference.capkv(layer.k, layer.v, layer.q_res, *args, scale=attention.scale, **more)
    return reference.capkv_ref(layer.k, layer.v, layer.q_mean, *args, **more)


def check_kept(kept, pos, score, budget, n_sink, n_recent):
    """kept: positions of one head after the eviction down to `budget`; pos, score: of its entries before.

    Returns how many entries of near-equal scores were swapped.
    """
    n = len(pos)
    middle = np.arange(n_sink, n - n_recent)
    n_mid = budget - n_sink - n_recent
    best = middle[np.lexsort((-middle, -score[middle]))][:n_mid]  # of equal ones the later
    want = np.sort(np.concatenate([np.arange(n_sink), best, np.arange(n - n_recent, n)]))
    kept = np.asarray(kept)
    assert len(kept) == budget and (np.diff(kept) > 0).all()
    assert (kept[:n_sink] == pos[:n_sink]).all() and (kept[budget - n_recent :] == pos[n - n_recent :]).all()

    mine = np.flatnonzero(np.isin(pos, kept))
    assert len(mine) == budget, "a position was kept that was not there"
    edge = score[best[-1]]
    swapped = np.setxor1d(mine, want)
    distance = np.abs(score[swapped] - edge) / max(score[middle].std(), 1e-30)
    assert (distance < NEAR).all(), f"positions {pos[swapped]} are {distance} away from the last score that stays"
    return len(swapped) // 2
