"""Long conversations: facts are told once and early, and a program can tell whether a rule was kept."""

import re

import pytest
from fake_engine import FakeEngine, solve
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.tasks import dialogues, registry
from capkv_edge.bench.tasks.dialogues import FACTS, RULES, TRIGGER
from capkv_edge.bench.measure.retrieval import Reader
from capkv_edge.bench.tasks.small_talk import NOTED, QUESTIONS, TALK

ENGINE = FakeEngine()
READER = Reader(ENGINE)


def make(name, index=0, turns=20, **options):
    return registry.make_text(name, index, turns, READER.count, READER.size, **options)


def prompt(text, item):
    return ENGINE.detokenize(READER.prefix(text) + READER.question(item) + READER.opening(text, item))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, len(FACTS)), st.integers(0, 9))
def test_a_fact_is_told_once_and_before_all_other_talk(index, turns, share, seed):
    text = make("recall", index, turns, share=share, seed=seed)
    said = [content for _, content in text.turns]
    assert [role for role, _ in text.turns] == ["user", "assistant"] * (share + turns)
    assert len({item.question for item in text.items}) == share
    for i, item in enumerate(text.items):
        assert [k for k, content in enumerate(said) if item.expected[0].lower() in content.lower()] == [2 * i]
        assert item.score(solve(prompt(text, item))) == 1 and item.score("") == 0


def test_a_question_in_other_words_shares_none_with_the_fact():
    for fact in FACTS:
        told, asked = (set(re.findall(r"\w{4,}", text.lower())) for text in (fact.told, fact.reworded))
        assert asked and not told & asked
    plain, reworded = make("recall", share=4), make("recall_reworded", share=4)
    assert {item.question for item in plain.items} <= {fact.question for fact in FACTS}
    assert {item.question for item in reworded.items} <= {fact.reworded for fact in FACTS}


@pytest.mark.parametrize("name", ["instruction", "instruction_shown"])
@pytest.mark.parametrize("index", range(len(RULES)))
def test_a_rule_is_told_by_the_system_and_can_be_kept_or_broken(name, index):
    text = make(name, index, 30, share=4)
    assert text.turns[0][0] == "system" and len(text.turns) == 61
    check = RULES[index].check
    word = text.items[0].expected[0]
    kept = [check(content, (word,)) for role, content in text.turns if role == "assistant"]
    triggers = [content.startswith(TRIGGER) for role, content in text.turns if role == "user"]
    assert set(triggers) == {name == "instruction_shown"}
    assert set(kept) == {float(name == "instruction_shown")}
    for item in text.items:
        assert item.question.startswith(TRIGGER)
        assert item.score(solve(prompt(text, item))) == 1
        assert item.score("") == item.score("Who knows. So it is, more or less") == 0


@pytest.mark.parametrize(
    "check,good,bad",
    [
        (dialogues.ends_with, ["Yes. WORD", "WORD.", "a WORD!\n"], ["WORD yes", "", "word"]),
        (dialogues.begins_with, ["WORD yes", "**WORD**: a"], ["yes WORD", "", "word"]),
        (dialogues.holds_once, ["a [WORD] b"], ["WORD and WORD", "", "word"]),
        (dialogues.is_upper, ["A B, 3!"], ["A b", "", "3"]),
        (dialogues.is_lower, ["a b, 3!"], ["A b", "", "3"]),
        (dialogues.is_bracketed, ["[a]", " [a\nb] "], ["a [b]", "", "[a] b"]),
    ],
)
def test_checks_accept_what_keeps_the_rule_alone(check, good, bad):
    assert {check(answer, ("WORD",)) for answer in good} == {1.0}
    assert {check(answer, ("WORD",)) for answer in bad} == {0.0}


def test_the_same_seed_gives_the_same_talk_and_another_seed_another():
    for name in registry.DIALOGUES:
        assert make(name, 1, seed=3) == make(name, 1, seed=3)
        assert make(name, 1, seed=3).turns[-6:] != make(name, 1, seed=4).turns[-6:]
        assert make(name, 1, seed=3).turns[-6:] != make(name, 2, seed=3).turns[-6:]


def test_no_question_comes_up_twice_while_there_are_others():
    asked = [content for role, content in make("recall", turns=len(TALK)).turns[2:] if role == "user"]
    assert sorted(asked) == sorted(question for question, _ in TALK)
    assert len(make("recall", turns=3 * len(TALK)).turns) == 2 + 6 * len(TALK)


def test_the_talk_neither_begins_with_the_trigger_nor_holds_a_fact():
    talk = " ".join(text for pair in TALK for text in pair).lower() + " ".join((*NOTED, *QUESTIONS)).lower()
    assert TRIGGER.lower() not in talk and not any(char.isdigit() for char in talk)
    values = [value for fact in FACTS for value in fact.values.split()]
    assert len(set(values)) == len(values) > 60
    assert not [value for value in values if value.lower() in talk]
    assert len({question for question, _ in TALK} | set(QUESTIONS)) == len(TALK) + len(QUESTIONS)


def test_a_template_without_system_prompts_gets_the_rule_with_the_first_message():
    text = make("instruction", 0, 3)
    read = ENGINE.detokenize(READER.prefix(text))
    plain = FakeEngine(system=False)
    merged = plain.detokenize(Reader(plain).prefix(text))
    assert read.startswith("<|start|>system\n") and merged.startswith(
        f"<|start|>user\n{text.turns[0][1]}\n\n{text.turns[1][1]}"
    )
