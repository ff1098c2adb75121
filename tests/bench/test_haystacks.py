"""Haystacks: texts from any start, cut to a number of tokens, with needles where they should be."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge.bench.tasks import haystacks
from capkv_edge.bench.tasks.haystacks import Haystack, NOISE, bury, load, split


def count(text):
    return len(re.findall(r"\w+|[^\w\s]", text))


def joined(pieces):
    return "".join(piece for piece, _ in pieces)


@given(st.text("ab.!?\"' \n", max_size=3000))
def test_sentences_joined_are_the_text(text):
    assert "".join(split(text)) == text.lstrip()
    assert all(0 < len(piece) <= haystacks._MAX_PIECE for piece in split(text))


def test_a_text_is_split_behind_its_sentences():
    text = 'It rained. "Go home!" she said.\nWhy?  Because 3.5 is more\nthan 3.\n\nA heading\n\nThe end'
    assert split(text) == (
        "It rained. ",
        '"Go home!" ',
        "she said.\n",
        "Why?  ",
        "Because 3.5 is more\nthan 3.\n\n",
        "A heading\n\n",
        "The end",
    )


@given(st.integers(0, 49), st.integers(0, 700))
def test_a_cut_is_the_text_from_the_start_on_with_no_more_tokens_than_asked(start, n):
    words = [f"word{i} and so on it goes. " for i in range(50)]
    pieces = Haystack("x", tuple(words)).cut(start, n, count)
    whole = "".join(words) * 4
    assert whole.find(joined(pieces)) in (0, whole.find(words[start]))
    assert n - 1 <= sum(k for _, k in pieces) <= n
    assert all(k == count(piece) for piece, k in pieces)


@given(st.integers(1, 500))
def test_stretches_do_not_overlap_and_each_has_its_tokens(n):
    pieces = Haystack("x", tuple(f"word{i} and so on. " for i in range(100)))
    starts = pieces.stretches(n, count)
    assert starts[0] == 0 and len(starts) == max(1, 100 // -(-n // 5))
    for at, end in zip(starts, [*starts[1:], 100]):
        assert n > 500 or sum(map(count, pieces.pieces[at:end])) >= n


def test_a_cut_of_whole_pieces_ends_with_one():
    pieces = Haystack("x", ("one two three. ", "four five. "), whole=True).cut(0, 12, count)
    assert joined(pieces) == "one two three. four five. one two three. "


@given(st.floats(0, 1), st.integers(40, 900))
def test_a_needle_lies_at_its_depth_to_half_a_sentence(depth, n):
    pieces = Haystack("x", ("Eight words are what this sentence has here. ",)).cut(0, n, count)
    text = bury(pieces, [(depth, "NEEDLE")])
    before, _, after = text.partition("NEEDLE ")
    assert before + after == joined(pieces)
    n = count(joined(pieces))
    n_cut = n % 9  # nothing stands behind a sentence that is cut off
    assert abs(count(before) - min(depth * n, n - n_cut)) <= 9 / 2


def test_needles_at_one_place_keep_their_order_and_the_white_space_of_the_text():
    pieces = Haystack("noise", (NOISE,)).cut(0, 3 * count(NOISE), count)
    text = bury(pieces, [(0.4, "A."), (1, "Z."), (0.3, "B."), (0, "START.")])
    assert text == f"START.\n{NOISE}A.\nB.\n{NOISE}{NOISE}Z.\n"
    assert bury([], [(0.7, "A."), (0.2, "B.")]) == "A.\nB.\n"


def test_noise_has_no_end():
    assert joined(load("noise").cut(0, 10 * count(NOISE), count)) == 10 * NOISE


def test_a_file_and_a_folder_are_haystacks(tmp_path):
    (tmp_path / "b.txt").write_text("Second. ")
    (tmp_path / "a.txt").write_text("First. Again. ")
    assert load(str(tmp_path / "a.txt")).pieces == ("First. ", "Again. ")
    assert "".join(load(str(tmp_path)).pieces).split() == ["First.", "Again.", "Second."]


def test_the_essays_lose_their_line_breaks(monkeypatch):
    monkeypatch.setattr(haystacks.corpora, "load", lambda name: [("x", "One\nline.And\nmore  (here).Next."), ("y", "Then.")])
    load.cache_clear()
    assert load("essays").pieces == ("One line. ", "And more (here). ", "Next. ", "Then.")
    load.cache_clear()


def test_a_haystack_that_is_not_there_is_named():
    with pytest.raises(OSError, match="no-such-file"):
        load("no-such-file")
