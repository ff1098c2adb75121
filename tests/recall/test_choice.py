"""Which passages come back: the gate, the quota, names that lead on."""

import re

import pytest

from capkv_edge.recall.archive import Archive
from capkv_edge.recall.choice import Choice, Gate, Hit, marked
from capkv_edge.recall.passages import N_MIN
from capkv_edge.recall.query import Weigher


def count(text):
    return len(re.findall(r"\w+|[^\w\s]", text))


class Talk:
    """An archive of texts in which words and signs are tokens; all words but "a" are rare."""

    def __init__(self, *texts, gate=None):
        self.words = [word for text in texts for word in [*re.findall(r"\w+|[^\w\s]", text), ""]]
        self.archive = Archive(lambda token: f" {self.words[token]}".rstrip().encode())
        self.archive.extend(range(len(self.words)), len(self.words))
        self.choice = Choice(self.archive, Weigher(lambda text: [0] if text.strip() == "a" else [0, 0], 100), count, gate)

    def find(self, text, quota=1000, gone="", new=""):
        """Texts that come back where passages with the text `gone` are gone from the cache, and those with the text `new` are new."""
        found = self.choice.find(text, quota, lambda passage: gone in passage.text, lambda passage: new in passage.text)
        return [] if found is None else [passage.text for passage in found.passages]


def filler(name, n=N_MIN):
    return " ".join(f"{name}x{i}" for i in range(n)) + "."


#: lets a word of a few come back
ANY = Gate(least=0.5, share=0.2)


@pytest.fixture
def talk():
    dentist, boat = "The dentist is Marlow. " + filler("b"), "The boat is Otter. " + filler("d")
    return Talk(filler("a"), dentist, filler("c"), boat, *map(filler, "efghi"), gate=ANY)


def test_what_the_turn_asks_for_comes_back_marked(talk):
    found = talk.choice.find("Who: dentist?", 300)
    assert len(found.passages) == 1 and "dentist is Marlow" in found.passages[0].text
    assert found.text == f"\n\n[Recalled from earlier in this conversation:\n{found.passages[0].text.strip()}\n]"


def test_nothing_comes_back_for_words_that_the_text_has_not(talk):
    assert talk.find("How do planes fly?") == [] == talk.find("") == talk.find("a a a")


def test_a_passage_with_too_small_a_part_of_the_question_stays_away(talk):
    assert talk.find("Does any dentist recommend yellow submarines, bicycles and pianos?") == []
    hits = talk.choice.search("Does any dentist recommend yellow submarines, bicycles and pianos?", 3)
    assert "dentist" in hits[0].passage.text and hits[0].share < ANY.share and not talk.choice.passes(hits[0])


@pytest.mark.parametrize(
    "weight, share, passes", [(0.9, 0.7, True), (0.7, 0.9, False), (0.9, 0.5, False), (1.5, 0.1, True), (0.8, 0.6, True)]
)
def test_the_gate(weight, share, passes):
    assert Talk(filler("a")).choice.passes(Hit(None, weight, share)) == passes
    assert Talk(filler("a"), gate=Gate(least=9, share=1, sure=9)).choice.passes(Hit(None, weight, share)) is False


def test_passages_come_in_the_order_of_the_text_and_within_the_quota(talk):
    both = talk.find("boat and dentist")
    assert ["dentist" in text for text in both] == [True, False] and "boat" in both[1]
    assert talk.find("boat and dentist", 13) == []
    for quota in range(0, 300, 10):
        found = talk.choice.find("boat and dentist", quota)
        assert found is None or count(found.text) <= quota


def test_where_not_all_fits_passages_are_cut_to_the_sentences_with_the_words(talk):
    assert talk.find("boat and dentist", 140) == [" The dentist is Marlow .", " The boat is Otter ."]
    assert len(talk.find("boat and dentist", 18)) == 1


def test_what_is_not_new_stays_away_and_makes_room(talk):
    found = talk.find("boat and dentist", 140, new="boat")
    assert len(found) == 1 and "boat" in found[0]


@pytest.mark.parametrize("gone", ["dentist", "boat"])
def test_what_is_still_held_comes_back_with_what_is_gone_where_there_is_room(talk, gone):
    assert [word in text for word, text in zip(("dentist", "boat"), talk.find("boat and dentist", gone=gone))] == [True, True]
    (found,) = talk.find("boat and dentist", 18, gone=gone)
    assert gone in found


def test_nothing_comes_back_where_all_of_it_is_still_held(talk):
    assert talk.find("boat and dentist", gone="neither") == []


def test_of_equal_passages_the_latest_is_the_best():
    talk = Talk(filler("a"), "The code is 1111. " + filler("b"), filler("c"), "The code is 2222. " + filler("d"), *map(filler, "efgh"))
    assert [("1111" in hit.passage.text, "2222" in hit.passage.text) for hit in talk.choice.search("code", 2)] == [
        (False, True),
        (True, False),
    ]


def test_names_lead_on_to_where_they_are_used():
    first, then = "VAR ABCDE = 12345. " + filler("a"), "VAR QRSTU = VAR ABCDE. " + filler("y")
    talk = Talk(first, *map(filler, "bcde"), then, *map(filler, "fghij"), "VAR KLMNO = QRSTU", gate=ANY)
    found = talk.find("holding 12345?", 1000)
    assert len(found) == 3 and [name in text for name, text in zip(("12345", "QRSTU", "KLMNO"), found)] == [True] * 3
    assert found[1:] == [" VAR QRSTU = VAR ABCDE .", " VAR KLMNO = QRSTU"]
    assert len(talk.find("holding 12345?", 26)) == 2
    assert len(talk.find("holding 12345?", gone="QRSTU")) == 3 and talk.find("holding 12345?", gone="neither") == []


def test_marks_stand_around_and_between():
    passages = Talk(filler("a"), filler("b")).archive
    text = marked([passages.passage(1), passages.passage(2)])
    assert text.count("\n...\n") == 1 and text.endswith("\n]") and text.startswith("\n\n[Recalled")
