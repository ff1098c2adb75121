"""Each policy's graph on the device against its float64 reference."""

import device_scores
import pytest
from device_scores import LEAST_KEPT, MOST_NMSE


@pytest.mark.parametrize("shape", device_scores.SHAPES)
@pytest.mark.parametrize("policy", device_scores.POLICIES)
def test_scores_are_those_of_the_reference(device, policy, shape):
    error, kept = device_scores.compare(policy, device_scores.SHAPES[shape], device)
    assert error <= MOST_NMSE
    assert kept >= LEAST_KEPT
