"""RULER's tasks: texts have their length, and the answers stand in them where and as often as they should."""

import re
from collections import Counter

import pytest
import qa_files
from fake_engine import FakeEngine, solve
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.tasks import registry, words
from capkv_edge.bench.tasks.questions import Item, match_all, match_any
from capkv_edge.bench.measure.retrieval import Reader

ENGINE = FakeEngine()
READER = Reader(ENGINE)
HAYSTACK = "python-docs"  # comes with Python


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Paths of files of questions, by their form."""
    folder = tmp_path_factory.mktemp("qa")
    FILES.update(squad=qa_files.squad(folder / "squad.json"), hotpotqa=qa_files.hotpotqa(folder / "hotpotqa.json"))
    return FILES


FILES = {}


def make(name, index=0, length=1024, haystack=HAYSTACK, **options):
    haystack = FILES.get(registry.find(name).form, haystack)
    return registry.make_text(name, index, length, READER.count, READER.size, haystack=haystack, **options)


def share_of(name, share):
    return registry.find(name).share_of(share)


ruler = st.sampled_from(registry.RULER)
every = st.sampled_from((*registry.RULER, *registry.NEEDLES))
N_PIECE = 90  # tokens of a line of noise, of a needle or of a document, at most


@settings(max_examples=60, deadline=None)
@given(every, st.integers(0, 5), st.integers(1500, 6000), st.integers(1, 4), st.integers(0, 9))
def test_a_text_has_its_length_and_holds_what_is_asked_for(name, index, length, share, seed):
    text = make(name, index, length, "noise", share=share_of(name, share), seed=seed)
    is_short = name.startswith("qa") and length > 3000  # the file has no more documents
    assert is_short or length - (20 if name in ("cwe", "fwe") else N_PIECE) <= READER.size(text) <= length
    assert len(text.items) == share_of(name, share)
    assert text.prefix.endswith("\n\n" if name.startswith("qa") else "\n")
    for item in text.items:
        assert name.startswith("qa") or len(item.expected) == registry.find(name).n_expected
        counts = [len(re.findall(rf"\b{word}\b", text.prefix)) for word in item.expected]
        if name == "vt":
            assert counts == [2, 2, 2, 2, 1]
        elif name == "cwe":
            counts = Counter(re.findall(r"\d+\. (\S+)", text.prefix.rpartition("Below is")[2]))
            assert [counts[word] for word in item.expected] == [30 if length >= 4096 else 6] * 10
        elif name == "fwe":
            assert counts[0] > counts[1] > counts[2] > 0
        elif name.startswith("qa"):
            assert counts[0] == 1
        else:
            assert counts == [1] * len(item.expected)
    assert all(passage in text.prefix for passage in text.evidence)
    assert bool(text.evidence) == registry.find(name).has_evidence


@settings(max_examples=40, deadline=None)
@given(every, st.integers(0, 5), st.integers(1500, 5000), st.integers(1, 4))
def test_who_reads_the_text_can_answer_and_who_says_nothing_scores_0(name, index, length, share):
    text = make(name, index, length, share=share_of(name, share))
    for item in text.items:
        prompt = f"<|start|>user\n{text.prefix}{item.question}<|end|>\n<|start|>assistant\n{item.answer_prefix}"
        assert item.score(solve(prompt)) == 1
        assert item.score("") == 0


@settings(max_examples=30, deadline=None)
@given(every, st.integers(0, 3), st.integers(0, 3))
def test_a_text_depends_on_seed_and_index(name, index, seed):
    text = make(name, index, 1500, seed=seed)
    assert text == make(name, index, 1500, seed=seed)
    others = [make(name, index, 1500, seed=seed + 1), make(name, index + 1, 1500, seed=seed), make(name, index, 1600, seed=seed)]
    for other in others if not name.startswith("qa") else others[1:2]:  # a file has few questions, so two seeds may draw the same
        assert not {item.expected for item in other.items} & {item.expected for item in text.items}


# --- RULER's own form ---

ONE = r"One of the special magic \w+ for (\S+) is: (\S+)\."


@pytest.mark.parametrize(
    "name, n_needles, n_asked",
    [
        ("niah_single_1", 1, 1),
        ("niah_single_2", 1, 1),
        ("niah_single_3", 1, 1),
        ("niah_multikey_1", 4, 1),
        ("niah_multivalue", 4, 4),
        ("niah_multiquery", 4, 4),
    ],
)
def test_a_text_has_as_many_needles_as_in_ruler(name, n_needles, n_asked):
    for index in range(4):
        text = make(name, index, 1500)
        (item,) = text.items
        assert len(re.findall(ONE, text.prefix)) == n_needles and len(item.expected) == len(text.evidence) == n_asked


def test_each_of_four_keys_can_be_asked_for_in_one_text():
    text = make("niah_multikey_1", share=4)
    needles = dict(re.findall(ONE, text.prefix))
    asked = {item.expected[0] for item in text.items}
    assert asked == set(needles.values()) and len({item.depth for item in text.items}) == len(needles) == 4


def test_a_prompt_reads_as_the_published_template():
    text = make("niah_single_2", 0, 800, haystack="noise")
    (item,) = text.items
    key = re.findall(ONE, text.prefix)[0][0]
    head = "A special magic number is hidden within the following text. Make sure to memorize it."
    assert text.prefix.startswith(f"{head} I will quiz you about the number afterwards.\n")
    assert item.question == f"What is the special magic number for {key} mentioned in the provided text?"
    assert item.answer_prefix == f" The special magic number for {key} mentioned in the provided text is"
    lines = text.prefix.split("\n")
    assert f"One of the special magic numbers for {key} is: {item.expected[0]}." in lines  # a line of its own

    several = make("niah_multiquery").items[0]
    assert re.fullmatch(
        r"What are all the special magic numbers for \S+, \S+, \S+, and \S+ mentioned in the provided text\?", several.question
    )
    assert several.answer_prefix.endswith(" mentioned in the provided text are")
    assert make("niah_multikey_3").prefix.startswith("A special magic uuid is hidden within")


def test_a_haystack_of_needles_has_a_line_for_each_and_each_key_once():
    for name in ("niah_multikey_2", "niah_multikey_3"):
        text = make(name, length=8192)
        head, *lines = text.prefix.rstrip().split("\n")
        keys = [re.fullmatch(ONE, line).groups() for line in lines]
        assert len(keys) > 150 and len(dict(keys)) == len(keys) == len({value for _, value in keys})


def test_needles_in_prose_stand_at_ruler_s_depths_and_at_others_in_turn():
    depths = [make("niah_single_2", i).items[0].depth for i in range(30)]
    assert len(set(depths)) > 15 and min(depths) < 0.2 and max(depths) > 0.8
    assert all(abs(depth * 39 - round(depth * 39)) < 0.2 for depth in depths)
    values = make("niah_multivalue").items[0].expected
    text = make("niah_multivalue").prefix
    assert sorted(values, key=text.index) == list(values)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2", "needles_1", "needles_3"]),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(0, 4),
)
def test_needles_lie_at_the_depths_that_were_asked_for(name, depths, index):
    text = make(name, index, 6000, "noise", depths=depths, share=registry.find(name).share)
    body = text.prefix.partition("\n")[2]
    n_most = 60 + 20 * 4  # tokens of a sentence, and of all that is hidden
    n = len(text.items)
    for item in text.items:
        assert item.depth in [depths[(index * n + i) % len(depths)] for i in range(n)]
        before = body.partition(item.expected[0])[0]
        assert abs(READER.count(before) - item.depth * READER.count(body)) < n_most


def test_a_variable_is_assigned_before_it_is_read_and_an_example_comes_first():
    for length in (1024, 8192):
        text = make("vt", length=length, haystack="noise")
        example, _, read = text.prefix.rpartition("Memorize and track")
        assert 300 < READER.count(example) <= 500 and example.count("VAR ") == 9
        assert re.search(r"they are:  \w{3} \w{3} \w{3} \w{3} \w{3}\n\n$", example)
        held = set()
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", read):
            assert source.isdigit() or source in held
            held.add(name)
        assert len(held) == 5 and held == set(text.items[0].expected)


@pytest.mark.parametrize("length,others", [(1024, 1), (4096, 3), (32768, 3)])
def test_the_common_words_are_more_common_than_all_others(length, others):
    text = make("cwe", length=length)
    example, _, read = text.prefix.rpartition("Below is a numbered list")
    counts = Counter(re.findall(r"\d+\. (\S+)", read))
    rest = [n for word, n in counts.items() if word not in text.items[0].expected]
    assert set(rest) == {others} and len(rest) > 20
    shown = Counter(re.findall(r"\d+\. (\S+)", example.partition("\nQuestion")[0]))
    answer = re.findall(r"\d+\. (\S+)", example.partition("often in the list are:")[2])
    n = 10 if length >= 4096 else 3
    assert len(answer) == 10 and {shown[word] for word in answer} == {n} and len(shown) == (40 if length >= 4096 else 20)


@settings(max_examples=20, deadline=None)
@given(st.integers(700, 20000), st.integers(0, 5))
def test_the_frequent_words_are_more_frequent_than_all_but_the_dots(length, seed):
    text = make("fwe", length=length, seed=seed)
    counts = Counter(text.prefix.partition("coded words. ")[2].split())
    assert [word for word, _ in counts.most_common(4)] == ["...", *text.items[0].expected]
    assert counts.most_common(5)[4][1] < counts.most_common(4)[3][1]


def test_the_score_is_the_share_of_what_was_expected():
    assert match_all("It is AMBER, and one-two.", ("amber", "one-two", "three", "four")) == 0.5
    item = Item("?", ("12", "34"), 8)
    assert not item.is_settled("12") and item.is_settled("34 12 and")
    either = Item("?", ("the sea", "a lake"), 8, check=match_any)
    assert either.score("It is A LAKE.") == 1 and either.score("the") == 0 and either.is_settled("The sea")
    assert not Item("?", ("12",), 8, check=lambda answer, _: float(answer == "12")).is_settled("12")


def test_no_word_stands_within_another():
    every = [*words.ADJECTIVES, *words.NOUNS, *words.VERBS]
    assert not [(a, b) for a in every for b in every if a is not b and a in b]


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("niah", {}, "task = niah: allowed are niah_single_1, "),
        ("vt", {"length": 100}, "length = 100: a text of the task vt takes at least "),
        ("vt", {"length": 0}, "length = 0: allowed is 1 or more"),
        ("vt", {"seed": -1}, "seed = -1: allowed is 0 or more"),
        ("niah_single_1", {"depths": (0.5, 1.5)}, "depths = 0.5, 1.5: allowed is 0 to 1"),
        ("cwe", {"share": 2}, "share = 2: allowed for the task cwe is 1 to 1"),
        ("niah_multikey_2", {"share": 11}, "share = 11: allowed for the task niah_multikey_2 is 1 to 10"),
        ("niah_single_1", {"share": 2}, "share = 2: allowed for the task niah_single_1 is 1 to 1"),
        ("qa_1", {}, "task = qa_1: it needs --squad FILE"),
        ("recall", {"share": 99}, "share = 99: allowed for the task recall is 1 to 8"),
    ],
)
def test_arguments_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        registry.make_text(name, 0, **{"length": 1024, **options}, tokens=READER.count, size=READER.size)
