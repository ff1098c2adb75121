"""The index: what is added is found, by words and by their parts, and what is removed is not."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge.recall import index
from capkv_edge.recall.index import Index, NoIndexError

TEXTS = ["The cats were running.", "A cat sat: naïve, and with get_value(x).", "他昨天在北京大学读书。", "Nothing here."]


@pytest.fixture
def found():
    made = Index()
    made.add(TEXTS[:2])
    made.add(TEXTS[2:])
    return lambda text, table="words", n_max=10: made.holding(table, text, n_max)


def test_words_are_found_by_their_stems_and_without_accents(found):
    assert found("cat") == found("CATS") == [1, 2] and found("run") == [1] and found("naive") == [2]
    assert found("cat", n_max=1) == [1] and found("dog") == []


def test_words_in_a_row_are_found_in_this_row(found):
    assert found("cats were") == [1] and found("were cats") == [] and found("get-value") == [2]


def test_parts_of_words_are_found(found):
    assert found("北京大", "parts") == [3] and found("t_val", "parts") == [2] and found("北京大") == []


@given(st.lists(st.text(max_size=40), max_size=8), st.integers(0, 8))
def test_the_last_passages_can_be_removed(texts, n):
    kept, made = texts[: max(len(texts) - n, 0)], Index()
    made.add([*kept, "once upon"])
    made.remove(["once upon"])
    made.add(texts[len(kept) :])
    made.remove(texts[len(kept) :])
    made.add(["at last"])
    assert made.n == len(kept) + 1 and made.holding("words", "upon", 9) == [] and made.n in made.holding("words", "last", 9)


@given(st.text(max_size=30))
def test_no_text_breaks_a_query(text):
    made = Index()
    made.add([f"x {text} y"])
    for table in made.tables:
        assert made.holding(table, text, 5) in ([], [1])


def test_without_fts5_the_error_says_so(monkeypatch):
    class NoFts5:
        def execute(self, statement):
            raise sqlite3.OperationalError("no such module: fts5")

        def close(self):
            pass

    monkeypatch.setattr(index.sqlite3, "connect", lambda *args, **options: NoFts5())
    with pytest.raises(NoIndexError, match=r"SQLite [\d.]+ has no full text search \(FTS5\) here: no such module: fts5"):
        Index()


def test_an_older_sqlite_has_words_alone(monkeypatch):
    monkeypatch.setattr(index.sqlite3, "sqlite_version_info", (3, 33, 0))
    assert Index().tables == ["words"]
