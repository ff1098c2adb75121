"""What most heads hold."""

import numpy as np
import pytest

from capkv_edge.recall.held import Held


class FakeCache:
    def __init__(self, *heads):
        self.all = [np.array(sorted(head), dtype=np.int32) for head in heads]
        self.heads = [(i, 0) for i in range(len(heads))]

    def positions(self, layer, head, seq_id):
        return self.all[layer]


ALL, NONE, MOST, LESS = range(100), [], [i for i in range(100) if i % 12], [i for i in range(100) if i % 8]


@pytest.mark.parametrize(
    "heads, is_gone",
    [([ALL], False), ([NONE], True), ([MOST], False), ([LESS], True), ([LESS, ALL], False), ([LESS, NONE, ALL], True), ([], False)],
)
def test_a_range_is_gone_where_most_heads_lack_more_than_a_tenth(heads, is_gone):
    assert Held(FakeCache(*heads)).is_gone(10, 70) == is_gone


def test_an_empty_range_is_not_gone():
    assert not Held(FakeCache(NONE)).is_gone(5, 5) and not Held(None).is_gone(0, 10)
