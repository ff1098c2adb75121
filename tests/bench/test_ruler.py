"""RULER's tasks: texts have their length, and the answers stand in them where and as often as they should."""

import re
from collections import Counter

import pytest
from fake_engine import FakeEngine, solve
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.tasks import registry, words
from capkv_edge.bench.tasks.questions import Item, match_all
from capkv_edge.bench.measure.retrieval import Reader

ENGINE = FakeEngine()
READER = Reader(ENGINE)
HAYSTACK = "python-docs"  # comes with Python


def make(name, index=0, length=1024, haystack=HAYSTACK, **options):
    return registry.make_text(name, index, length, READER.count, READER.size, haystack=haystack, **options)


def share_of(name, share):
    return min(share, registry.find(name).max_share or share)


ruler = st.sampled_from(registry.RULER)


@settings(max_examples=60, deadline=None)
@given(ruler, st.integers(0, 5), st.integers(900, 6000), st.integers(1, 4), st.integers(0, 9))
def test_a_text_has_its_length_and_holds_what_is_asked_for(name, index, length, share, seed):
    text = make(name, index, length, "noise", share=share_of(name, share), seed=seed)
    in_needles = name in ("niah_multikey_2", "niah_multikey_3")
    assert length - (60 if in_needles else 20) <= READER.size(text) <= length
    assert len(text.items) == share_of(name, share)
    assert text.prefix.endswith("\n") and not text.prefix.endswith("\n\n")
    for item in text.items:
        counts = [len(re.findall(rf"\b{word}\b", text.prefix)) for word in item.expected]
        if name == "vt":
            assert counts == [2, 2, 2, 2, 1]
        elif name == "cwe":
            assert counts == [30 if length >= 4096 else 6] * 10
        elif name == "fwe":
            assert counts[0] > counts[1] > counts[2] > 0
        else:
            assert counts == [1] * len(item.expected)


@settings(max_examples=40, deadline=None)
@given(ruler, st.integers(0, 5), st.integers(900, 5000), st.integers(1, 4))
def test_who_reads_the_text_can_answer_and_who_says_nothing_scores_0(name, index, length, share):
    text = make(name, index, length, share=share_of(name, share))
    for item in text.items:
        prompt = f"<|start|>user\n{text.prefix}{item.question}<|end|>\n<|start|>assistant\n{item.answer_prefix}"
        assert item.score(solve(prompt)) == 1
        assert item.score("") == 0


@settings(max_examples=30, deadline=None)
@given(ruler, st.integers(0, 3), st.integers(0, 3))
def test_a_text_depends_on_seed_and_index(name, index, seed):
    text = make(name, index, seed=seed)
    assert text == make(name, index, seed=seed)
    for other in (make(name, index, seed=seed + 1), make(name, index + 1, seed=seed), make(name, index, 1100, seed=seed)):
        assert not {item.expected for item in other.items} & {item.expected for item in text.items}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2"]),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(0, 4),
    st.integers(1, 3),
)
def test_needles_lie_at_the_depths_that_were_asked_for(name, depths, index, share):
    text = make(name, index, 6000, "noise", depths=depths, share=share)
    body = text.prefix.partition("\n\n")[2]
    n_most = 60 + 20 * 4 * share  # tokens of a sentence, and of all that is hidden
    for i, item in enumerate(text.items):
        assert item.depth == depths[(index * share + i) % len(depths)]
        before = body.partition(item.expected[0])[0]
        assert abs(READER.count(before) - item.depth * READER.count(body)) < n_most


def test_depths_are_spread_evenly_by_themselves():
    for share in (1, 3):
        depths = sorted(item.depth for i in range(30 // share) for item in make("niah_single_1", i, share=share).items)
        assert all(abs(depth - (k + 0.5) / 30) < 0.07 for k, depth in enumerate(depths))


def test_a_haystack_of_needles_holds_each_key_once():
    for name in ("niah_multikey_2", "niah_multikey_3"):
        text = make(name, length=8192, share=2)
        keys = re.findall(r"for (\S+) is (\S+)\.", text.prefix)
        assert len(keys) > 200 and len(dict(keys)) == len(keys) == len({value for _, value in keys})


def test_a_question_for_one_key_stands_among_others():
    text = make("niah_multikey_1", share=3)
    assert len(re.findall(r"The magic number for \S+ is \d{7}\.", text.prefix)) == 12
    values = make("niah_multivalue")
    assert len(values.items[0].expected) == 4 and values.prefix.count("One of the magic numbers for") == 4
    assert len(re.findall(r"\w+-\w+", make("niah_multiquery").items[0].question)) == 4


@pytest.mark.parametrize("length", [1024, 8192])
def test_a_variable_is_assigned_before_it_is_read(length):
    text = make("vt", length=length, share=3)
    held = set()
    for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", text.prefix.partition("The text:")[2]):
        assert source.isdigit() or source in held
        held.add(name)
    assert len(held) == 15


@pytest.mark.parametrize("length,others", [(1024, 1), (4096, 3), (32768, 3)])
def test_the_common_words_are_more_common_than_all_others(length, others):
    text = make("cwe", length=length)
    counts = Counter(re.findall(r"\d+\. (\S+)", text.prefix.partition("The list:")[2]))
    rest = [n for word, n in counts.items() if word not in text.items[0].expected]
    assert set(rest) == {others} and len(rest) > 50


@settings(max_examples=20, deadline=None)
@given(st.integers(700, 20000), st.integers(0, 5))
def test_the_frequent_words_are_more_frequent_than_all_but_the_dots(length, seed):
    text = make("fwe", length=length, seed=seed)
    counts = Counter(text.prefix.partition("\n\n")[2].split())
    assert [word for word, _ in counts.most_common(4)] == ["...", *text.items[0].expected]
    assert counts.most_common(5)[4][1] < counts.most_common(4)[3][1]


def test_the_score_is_the_share_of_what_was_expected():
    assert match_all("It is AMBER, and one-two.", ("amber", "one-two", "three", "four")) == 0.5
    item = Item("?", ("12", "34"), 8)
    assert not item.is_settled("12") and item.is_settled("34 12 and")
    assert not Item("?", ("12",), 8, check=lambda answer, _: float(answer == "12")).is_settled("12")


def test_no_word_stands_within_another():
    every = [*words.ADJECTIVES, *words.NOUNS, *words.VERBS]
    assert not [(a, b) for a in every for b in every if a is not b and a in b]


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("niah", {}, "task = niah: allowed are niah_single_1, "),
        ("vt", {"length": 100}, "length = 100: a text of the task vt takes at least 3"),
        ("vt", {"length": 0}, "length = 0: allowed is 1 or more"),
        ("vt", {"seed": -1}, "seed = -1: allowed is 0 or more"),
        ("niah_single_1", {"depths": (0.5, 1.5)}, "depths = 0.5, 1.5: allowed is 0 to 1"),
        ("cwe", {"share": 2}, "share = 2: allowed for the task cwe is 1 to 1"),
        ("recall", {"share": 99}, "share = 99: allowed for the task recall is 1 to 8"),
    ],
)
def test_arguments_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        registry.make_text(name, 0, **{"length": 1024, **options}, tokens=READER.count, size=READER.size)
