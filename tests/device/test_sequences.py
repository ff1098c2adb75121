"""Several sequences whose cells are on the device: each is evicted alone, and a copy is whole."""

import pytest
from device_scores import MOST_NMSE, nmse
from sequences import same


@pytest.mark.parametrize("policy", ["capkv", "expected", "snapkv"])
def test_an_eviction_leaves_the_other_sequences_as_they_were(device, open_on, policy):
    context = open_on(device, policy=policy)
    context.read(150, 0, 1, 2)
    before = {seq: context.get(seq) for seq in (0, 2)}
    assert context.compress(1) == 150 - 64
    assert {seq: context.get(seq) for seq in (0, 2)} == before
    assert [context.stats(seq).n_used for seq in range(3)] == [150, 64, 150]


def test_a_batch_of_several_sequences_evicts_each_of_them(device, open_on):
    context, cpu = (open_on(name, policy="streaming") for name in (device, "CPU"))
    for c in (context, cpu):
        c.read(350, 0, 1, 2)
    for seq in range(3):
        assert context.stats(seq).n_evictions == cpu.stats(seq).n_evictions > 0
        assert same(context.held(seq), cpu.held(seq))


@pytest.mark.parametrize("length", [100, 400])
def test_a_copy_goes_on_as_its_source_would(device, open_on, length):
    context = open_on(device)
    context.read(length, 0)
    context.cp(0, 1)
    assert same(context.held(0), context.held(1))
    a, b = context.read(60, 0, 1, seed=7)
    assert nmse(a, b) <= MOST_NMSE
    held = context.held(0)
    context.read(300, 1, seed=8)
    assert same(context.held(0), held) and not same(context.held(1), held)
