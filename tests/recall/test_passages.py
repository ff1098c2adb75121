"""Where a text of tokens is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge.recall.passages import N_MAX, N_MIN, N_SHARED, begin_after, borders, end_of

SENTENCE, LINE, WORD, CHARACTER = 4, 3, 2, 1


def kinds_of(*pieces):
    return borders([piece.encode() if isinstance(piece, str) else piece for piece in pieces]).tolist()


@pytest.mark.parametrize(
    "pieces, kinds",
    [
        (["One", ".", " Two", "!"], [1, 1, 4, 1, 1]),
        (["x", '."', " Two"], [1, 1, 4, 1]),
        (["Dr", ".", " Who", " J", ".", " Doe"], [1, 1, 2, 2, 1, 2, 1]),
        (["a", "\n", "b", "\n\n", "c"], [1, 2, 3, 2, 4, 1]),
        (["end. The", " cat", "?", "\n"], [1, 4, 1, 4, 3]),
        (["3", ".", "14"], [1, 1, 1, 1]),
        (["你好", "。", "再见"], [1, 1, 4, 1]),
        ([b"\xe4\xbd", b"\xa0", b"\xe5\xa5\xbd"], [1, 0, 1, 1]),
        (["over", "", "user", "\n"], [1, 4, 1, 2, 3]),
    ],
    ids=["sentences", "quotes", "titles", "lines", "inside a token", "a number", "Chinese", "bytes", "a control token"],
)
def test_what_begins_at_a_token(pieces, kinds):
    assert kinds_of(*pieces) == kinds


def all_kinds(**at):
    kinds = np.full(400, WORD, dtype=np.int8)
    for name, places in at.items():
        kinds[places] = {"sentence": SENTENCE, "line": LINE, "inside": 0}[name]
    return kinds


def test_a_passage_ends_at_the_first_sentence_that_makes_it_long_enough():
    assert end_of(all_kinds(sentence=[50, 70, 90]), 0) == 70
    assert end_of(all_kinds(sentence=[50, 70, 90]), 10) == 90
    assert end_of(all_kinds(sentence=[N_MIN]), 0) == N_MIN
    assert end_of(all_kinds(sentence=[N_MAX]), 0) == N_MAX


def test_without_a_sentence_a_passage_is_as_long_as_it_may_be():
    assert end_of(all_kinds(line=[80, 100], sentence=[N_MAX + 1]), 0) == 100
    assert end_of(all_kinds(), 0) == N_MAX
    assert end_of(all_kinds(inside=range(120, 130)), 0) == 119
    assert end_of(np.zeros(400, dtype=np.int8), 0) == N_MAX
    assert end_of(all_kinds()[:31], 0) == 30


def test_the_next_passage_begins_at_a_sentence_of_the_last_tokens():
    assert begin_after(all_kinds(sentence=[60, 80, 90]), 0, 100) == 80
    assert begin_after(all_kinds(sentence=[60]), 0, 100) == 100 - N_SHARED
    assert begin_after(all_kinds(sentence=[60], inside=range(60, 75)), 0, 100) == 75
    assert begin_after(np.zeros(400, dtype=np.int8), 0, 100) == 100


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1, max_size=600), st.data())
def test_passages_have_their_length_and_go_on(kinds, data):
    kinds = np.array(kinds, dtype=np.int8)
    begin = data.draw(st.integers(0, len(kinds) - 1))
    end = end_of(kinds, begin)
    n_left = len(kinds) - 1 - begin
    assert min(N_MIN, n_left) <= end - begin <= min(N_MAX, n_left)
    if end > begin:
        assert max(begin, end - N_SHARED - 1) < begin_after(kinds, begin, end) <= end
