"""States of a cache on the device: saved there, read there and on the CPU."""

import numpy as np
import pytest
from device_scores import MOST_NMSE, nmse
from sequences import same

TYPES = {"f16": 1, "q8_0": 8}
POLICIES = ["capkv", "expected", "h2o"]  # a sample of queries, sums of them, the last ones


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_sequence_goes_on_from_its_state_as_if_it_had_not_been_saved(device, open_on, policy, kind):
    options = dict(n_seq=2, policy=policy, type_k=TYPES[kind], type_v=TYPES[kind])
    context, other = (open_on(device, **options) for _ in range(2))
    context.read(400, 0)
    data = context.get(0)
    assert other.set(data, 1) == len(data)
    assert same(context.held(0), other.held(1))
    (a,), (b,) = context.read(40, 0, seed=3), other.read(40, 1, seed=3)
    assert nmse(a, b) <= MOST_NMSE
    assert context.compress(0) == other.compress(1) > 0
    assert same(context.held(0), other.held(1))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_passes_through_the_cpu_unchanged(device, open_on, policy):
    context, cpu = (open_on(name, n_seq=1, policy=policy) for name in (device, "CPU"))
    context.read(400, 0)
    data = context.get(0)
    assert cpu.set(data, 0) == len(data) and cpu.get(0) == data
    context.clear(data=True)
    assert context.set(cpu.get(0), 0) == len(data) and context.get(0) == data


def test_a_state_of_all_sequences_in_a_file(device, open_on, tmp_path):
    context, other = (open_on(device) for _ in range(2))
    context.read(300, 0, 1, 2)
    assert context.save_file(tmp_path / "state", None, [1, 2, 3])
    assert other.load_file(tmp_path / "state", None, 3)[1] == [1, 2, 3]
    assert all(same(context.held(seq), other.held(seq)) for seq in range(3))
    assert all(np.isfinite(x).all() for x in other.read(100, 0, 1, 2))


def test_a_state_beside_sliding_windows(device, open_on, windows):
    context, other = (open_on(device, windows, n_seq=1, reindex="always") for _ in range(2))
    context.read(300, 0)
    data = context.get(0)
    assert other.set(data, 0) == len(data) and other.get(0) == data
    (a,), (b,) = (c.read(40, 0, seed=3) for c in (context, other))
    assert nmse(a, b) <= MOST_NMSE
