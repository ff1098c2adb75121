"""Queries: the words of a turn, and what they weigh."""

import pytest

from capkv_edge.recall.index import Index
from capkv_edge.recall.query import N_TERMS, Term, Weigher, is_name, names_in, terms_of

LETTERS = [chr(i) for i in range(ord("a"), ord("a") + 26)] + [chr(i) + "w" for i in range(ord("a"), ord("a") + 26)]
#: a vocabulary of whole words, from the frequent to the rare; other words take two tokens
VOCABULARY = ["<end>", "the", "of", *(f"word{i}" for i in LETTERS), "dentist", *(f"rare{i}" for i in LETTERS[:36])]


def tokenize(text):
    word = text.strip()
    return [VOCABULARY.index(word)] if word in VOCABULARY else [90, 91]


@pytest.fixture
def weigher():
    return Weigher(tokenize, 400)


def index_of(*texts):
    made = Index()
    made.add(texts)
    return made


def words_of(text):
    return [(term.text, term.table) for term in terms_of(text)]


def test_the_words_of_a_text_come_once_and_joined_words_also_alone():
    assert words_of('The amber-otter, the "Otter"!') == [(word, "words") for word in ("The", "amber-otter", "amber", "otter")]
    assert words_of("don't") == [("don't", "words"), ("don", "words"), ("t", "words")]
    assert words_of("  ?! ...") == []


def test_scripts_without_spaces_are_searched_by_three_letters_at_a_time():
    assert words_of("北京大学在哪") == [(part, "parts") for part in ("北京大", "京大学", "大学在", "学在哪")]
    assert words_of("北京") == []


def test_names_of_programs():
    assert [word for word in "n_ctx KvCache x86 getName MAX_LEN VAR Paris a I 42 _x".split() if is_name(word)] == (
        "n_ctx KvCache x86 getName MAX_LEN VAR 42 _x".split()
    )
    assert names_in("VAR ABC = VAR XYZ; the end") == ["VAR", "ABC", "XYZ"]


def test_rarity_goes_by_the_place_in_the_vocabulary(weigher):
    rarities = [weigher.rarity(Term(word)) for word in ("the", "wordf", "Dentist", "unheard", "12345", "n_ctx")]
    assert rarities == sorted(rarities) and rarities[3:] == [1, 2, 2] and rarities[0] == 0 and rarities[2] > 0.5
    assert weigher.rarity(Term("the", "parts")) == 1


def test_rare_words_weigh_more_than_common_ones_and_missing_words_count(weigher):
    index = index_of("my dentist is here", *(f"wordj here wordz{i}" for i in range(30)))
    found = weigher.find(index, "my dentist")
    assert list(found.passages) == [1] and found.passages[1] == pytest.approx(found.weight)
    more = weigher.find(index, "my dentist unheard")
    assert more.passages[1] == pytest.approx(found.weight) and more.weight > 1.5 * found.weight
    assert weigher.find(index, "wordj here").passages == {}  # all passages have these


def test_a_name_that_is_a_part_of_another_is_found(weigher):
    index = index_of("def set_n_ctx_train(self): pass", "other words")
    assert list(weigher.find(index, "where is n_ctx_tr set").passages) == [1]
    assert weigher.find(index, "where is rain set").passages == {1: pytest.approx(weigher.find(index, "set").passages[1])}


def test_a_pasted_text_asks_for_its_rarest_words_alone(weigher, monkeypatch):
    index, asked = index_of("unheard things"), []
    holding = index.holding
    monkeypatch.setattr(index, "holding", lambda table, text, n_max: asked.append(text) or holding(table, text, n_max))
    assert list(weigher.find(index, " ".join(VOCABULARY) + " unheard").passages) == [1]
    assert len(set(asked)) == N_TERMS and {"unheard", "rarejw", "rarez"} <= set(asked) and "wordd" not in asked


def test_where_sqlite_has_no_trigrams_their_terms_are_not_found(weigher):
    index = index_of("北京大学")
    index.tables.remove("parts")
    assert weigher.find(index, "北京大学").passages == {}
