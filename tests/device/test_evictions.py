"""Evictions on the device: what stays is what the reference picks from the same keys, values and queries, and what the CPU picks."""

import numpy as np
import pytest
import saved_state
import tiny_models
from device_scores import MOST_NMSE, nmse
from selection import NEAR_ON_DEVICE, Attention, check_kept, scores
from sequences import same

from capkv_edge import policies

BUDGET, SINK, RECENT = 64, 4, 16
TYPES = {"f16": 1, "q8_0": 8}
QUANTIZED = ("capkv", "expected", "snapkv", "leverage", "streaming")  # the policies that are also tried with cells in q8_0
EXACT = ("streaming", "random")  # their scores are no sums

#: of the largest component of a key: what rotating a stored key and storing it again may change
ROTATED = {"f16": 2e-3, "q8_0": 2e-2}


def iou(a, b) -> float:
    """Intersection over union of the positions that the heads hold, the mean over all of them."""
    return float(np.mean([len(np.intersect1d(x, y)) / len(np.union1d(x, y)) for x, y in zip(a, b, strict=True)]))


def evict_on_both(context, cpu, policy, attention):
    """Evict the context's sequence on its device, and on the CPU from the same state. Check the device's choice.

    Returns:
        the states (before, after, after on the CPU), each a saved_state.Sequence
    """
    data = context.get(0)
    assert cpu.set(data, 0) == len(data)
    before = saved_state.parse(data)
    assert context.compress(0) == cpu.compress(0) == len(before.pos_cells) - BUDGET
    if policy in EXACT:
        assert same(context.held(), cpu.held())
    else:
        assert iou(context.held(), cpu.held()) >= 0.97
        for il, layer in zip(context.layers, before.layers, strict=True):
            for head, score in enumerate(scores(policy, before, layer, attention)):
                kept = context.kv.positions(il, head)
                check_kept(kept, layer.pos[head], score, BUDGET, SINK, RECENT, near=NEAR_ON_DEVICE)
    return before, *(saved_state.parse(c.get(0)) for c in (context, cpu))


def rows_of_both(a, b):
    """For each layer and KV head, the rows of K and V of the entries that both states hold, rotated to the same positions:
    ((k, v), (k, v)), each [n, d]. They are more than half of all, though not of each head: where a head holds another entry than the
    other state, those after it are rotated to other positions."""
    shares = []
    for x, y in zip(a.layers, b.layers, strict=True):
        for head in range(x.n_head_kv):
            entries = [layer.pos[head] + 1j * layer.rope_pos[head] for layer in (x, y)]
            at = [np.isin(one, other) for one, other in (entries, entries[::-1])]
            shares.append(at[0].mean())
            yield tuple((layer.k[head][i], layer.v[head][i]) for layer, i in zip((x, y), at))
    assert min(shares) > (SINK + RECENT) / BUDGET and np.mean(shares) > 0.5


@pytest.mark.parametrize("policy, kind", [(policy, "f16") for policy in policies()] + [(policy, "q8_0") for policy in QUANTIZED])
def test_the_reference_and_the_cpu_would_keep_the_same(device, open_on, wide_llama, policy, kind):
    options = dict(n_seq=1, policy=policy, type_k=TYPES[kind], type_v=TYPES[kind])
    context, cpu = (open_on(name, wide_llama, **options) for name in (device, "CPU"))
    logits, wanted = (c.read(150, 0)[0] for c in (context, cpu))
    assert nmse(logits, wanted) <= MOST_NMSE * (10 if kind == "q8_0" else 1)  # cells round once more
    for n_evictions in (1, 2):  # the second time the heads hold entries of their own
        _, after, wanted = evict_on_both(context, cpu, policy, Attention())
        for ours, theirs in rows_of_both(after, wanted):
            for x, y in zip(ours, theirs):
                np.testing.assert_array_equal(x, y)
        assert context.stats(0).n_evictions == n_evictions
        if n_evictions == 1:
            context.read(150, 0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("policy", ["capkv", "expected", "leverage"])
def test_once_entries_have_new_positions(device, open_on, wide_llama, policy, kind):
    options = dict(n_seq=1, policy=policy, type_k=TYPES[kind], type_v=TYPES[kind], reindex="always")
    context, cpu = (open_on(name, wide_llama, **options) for name in (device, "CPU"))
    for _ in range(2):
        context.read(150, 0)
        before, after, wanted = evict_on_both(context, cpu, policy, Attention())
        assert all(np.array_equal(pos, np.arange(BUDGET)) for pos in context.rope())
        for ours, theirs in rows_of_both(after, wanted):
            np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=ROTATED[kind] * np.abs(theirs[0]).max())
            np.testing.assert_array_equal(ours[1], theirs[1])
        assert context.stats(0).pos_offset == after.offset > before.offset


def test_beside_sliding_windows(device, open_on, windows):
    context, cpu = (open_on(name, windows, n_seq=1) for name in (device, "CPU"))
    context.read(150, 0)
    assert context.layers == [5]
    evict_on_both(context, cpu, "capkv", Attention(base=1e6, neox=True))
    context.read(200, 0)
    assert context.stats(0).n_evictions == 2


@pytest.mark.parametrize("write", [tiny_models.write_llama, tiny_models.write_gemma3], ids=["llama", "windows"])
def test_past_the_trained_length_logits_are_the_cpus(device, open_on, tmp_path, write):
    """Both keep the same entries, since the policy has no sums, and number them anew; keys of windows are rotated along."""
    write(tmp_path / "short.gguf", n_ctx=256)
    context, cpu = (open_on(name, tmp_path / "short.gguf", n_seq=1, policy="streaming") for name in (device, "CPU"))
    for n in (150, 150, 150):
        logits, wanted = (c.read(n, 0)[0] for c in (context, cpu))
        assert same(context.held(), cpu.held()) and same(context.rope(), cpu.rope())
        assert nmse(logits, wanted) <= MOST_NMSE
    assert context.stats(0).n_reindexes == cpu.stats(0).n_reindexes >= 1


def test_what_is_pinned_stays(device, open_on):
    context = open_on(device, n_seq=1)
    context.kv.pin(20, 30)
    context.read(300, 0)
    assert context.stats(0).n_evictions > 0
    assert all(set(range(20, 30)) <= set(held) for held in context.held())
