"""The archive: every token that has left the tail is in a passage, however the text came, went back, and went on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.recall.archive import Archive
from capkv_edge.recall.passages import N_MAX, N_MIN

PIECES = [b" word", b" the", b".", b"\n", b"", b" J", b". ", b"ing", "。".encode(), b"\xe4\xb8", b"\xad", b"!", b'"', b"  ", b"Mr", b"\n\n"]
TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=700)


def places(archive):
    return [(archive.passage(i).begin, archive.passage(i).end) for i in range(1, archive.index.n + 1)]


def made_anew(tokens, n_gone, gaps=()):
    archive = Archive(PIECES.__getitem__)
    for gap in gaps:
        archive.leave_out(*gap)
    archive.extend(tokens, n_gone)
    return archive


def check(archive, tokens, n_gone, gaps):
    """All before n_gone is in passages and nothing of the gaps is, and the passages are those of the same text read at once."""
    covered, free = np.zeros(len(tokens), dtype=bool), np.ones(len(tokens), dtype=bool)
    for begin, end in gaps:
        free[begin:end] = False
    for begin, end in places(archive):
        assert 0 < end - begin <= N_MAX and begin < n_gone
        covered[begin:end] = True
    assert covered[:n_gone].tolist() == free[:n_gone].tolist()
    assert not (covered & ~free).any()
    assert places(archive) == places(made_anew(tokens, n_gone, gaps))


@settings(max_examples=60)
@given(TOKENS, st.data())
def test_passages_cover_a_text_that_grows_and_goes_back(tokens, data):
    archive, n, n_gone, gaps = Archive(PIECES.__getitem__), 0, 0, []
    while n < len(tokens):
        if data.draw(st.booleans()):
            begin = max(n, gaps[-1][1] if gaps else 0) + data.draw(st.integers(0, 50))
            gaps.append((begin, begin + data.draw(st.integers(1, 150))))
            archive.leave_out(*gaps[-1])
        part = tokens[n : n + data.draw(st.integers(1, 300))]
        n += len(part)
        n_gone = data.draw(st.integers(n_gone, n))
        archive.extend(part, n_gone)
        check(archive, tokens[:n], n_gone, gaps)
        if data.draw(st.integers(0, 3)) == 0:
            n = data.draw(st.integers(0, n))
            n_gone = min(n, n_gone)
            archive.rewind(n)
            gaps = [(begin, min(end, n)) for begin, end in gaps if begin < n]
            check(archive, tokens[:n], n_gone, gaps)
            tokens = tokens[:n] + data.draw(TOKENS)[:200]
    assert archive.n_tokens == n and archive.gaps == gaps


def test_passages_are_long_enough_but_for_the_last_and_those_before_a_gap():
    rng = np.random.default_rng(1)
    archive = made_anew(rng.integers(0, len(PIECES), 5000).tolist(), 5000, [(2000, 2100)])
    short = [(begin, end) for begin, end in places(archive) if end - begin < N_MIN]
    assert {end for _, end in short} <= {2000, 5000} and archive.index.n > 40


def test_a_passage_has_its_text_and_is_found_by_it():
    words = [f" w{i}" for i in range(300)]
    archive = Archive(lambda token: words[token].encode())
    archive.extend(range(300), 300)
    for i in (0, 150, 299):
        numbers = archive.index.holding("words", f"w{i}", 10)
        assert numbers and all(archive.passage(n).begin <= i < archive.passage(n).end for n in numbers)
    found = archive.passage(2)
    assert found.text == "".join(words[found.begin : found.end])


def test_what_was_removed_is_not_found():
    words = [f" w{i}" for i in range(300)]
    archive = Archive(lambda token: words[token].encode())
    archive.extend(range(300), 300)
    archive.rewind(150)
    assert archive.index.holding("words", "w149", 10) and not archive.index.holding("words", "w150", 10)
    assert archive.n_shared(np.arange(300, dtype=np.int32)) == 150
    assert archive.n_shared(np.array([0, 1, 7], dtype=np.int32)) == 2 and archive.n_shared(np.array([], dtype=np.int32)) == 0


def test_only_what_comes_next_can_be_left_out():
    archive = made_anew([0] * 100, 100)
    archive.leave_out(100, 120)
    for wrong in ((90, 130), (110, 130), (140, 130)):
        with pytest.raises(ValueError, match="allowed is a range from 120 on"):
            archive.leave_out(*wrong)
    archive.leave_out(130, 130)
    assert archive.gaps == [(100, 120)]


def test_an_excerpt_is_the_sentences_with_the_words_and_those_between():
    words = [" One", " a", ".", " Two", ".", " Three", " b", ".", " Four", ".", " Five", " a", "\n", " Six", "."]
    archive = Archive(lambda token: words[token].encode())
    archive.extend(range(len(words)), len(words))
    passage = archive.passage(1)

    def text(*asked):
        found = archive.excerpt(passage, asked)
        assert found.text == archive.text(found.begin, found.end)
        return found.text

    assert text("THREE") == " Three b." and text("two", "four") == " Two. Three b. Four." and text("five") == " Five a\n"
    assert text("six") == " Six." and text("seven") == passage.text == text()
