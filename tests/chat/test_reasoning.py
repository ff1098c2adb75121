"""Reasoning: told from the reply whatever the pieces of the stream are, and folded into one line."""

import re
from contextlib import contextmanager

import pytest

from capkv_edge.chat.reasoning import Fold, Marks, Reasoning, divide, find_marks, mark_pieces

THINK = Marks("<think>", "</think>", is_open=False)
OPEN = Marks("<think>", "</think>", is_open=True)


class Shown:
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)

    @contextmanager
    def progress(self, label):
        self.lines.append(f"{label}...")
        yield
        self.lines.pop()  # a spinner goes when it ends


def divided(marks, pieces):
    stream = Reasoning(marks)
    found = [stream.feed(piece) for piece in pieces] + [stream.flush()]
    return "".join(reasoning for reasoning, _ in found), "".join(reply for _, reply in found)


@pytest.mark.parametrize(
    "marks, text, reasoning, reply",
    [
        (THINK, "<think>one two</think>\n\nYes.", "one two", "Yes."),
        (THINK, "\n<think>\none</think>Yes </think> no", "\none", "Yes </think> no"),
        (THINK, "Plain.", "", "Plain."),
        (THINK, "<thing> is XML", "", "<thing> is XML"),
        (THINK, "<thi", "", "<thi"),
        (THINK, "Say <think> aloud", "", "Say <think> aloud"),
        (THINK, "<think>cut </thi", "cut </thi", ""),
        (THINK, "<think></think>\n\n", "", ""),
        (THINK, "", "", ""),
        (OPEN, "one</think>Yes.", "one", "Yes."),
        (OPEN, "one < two", "one < two", ""),
        (None, "<think>one</think>Yes.", "", "<think>one</think>Yes."),
    ],
)
def test_a_stream_is_divided_wherever_it_is_cut(marks, text, reasoning, reply):
    for size in (1, 2, 3, 7, 100):
        assert divided(marks, [text[i : i + size] for i in range(0, len(text), size)]) == (reasoning, reply), size


def test_text_is_shown_as_soon_as_it_can_be_no_mark():
    stream = Reasoning(THINK)
    assert stream.feed("<think>") == ("", "")
    assert stream.feed("one <") == ("one ", "")
    assert stream.feed("b> </") == ("<b> ", "")
    assert stream.feed("think>") == ("", "") and not stream.is_open
    assert stream.feed("\n\nYes") == ("", "Yes")
    assert stream.feed(" <") == ("", " <")


@pytest.mark.parametrize(
    "template, before, marks",
    [
        ("{{ m }}<|assistant|>", "<|assistant|>", None),
        ("a </think> b", "<|assistant|>\n", THINK),
        ("a <think> b </think>", "<think>old</think> <|assistant|>\n", THINK),
        ("a <think>", "<|assistant|><think>\n", OPEN),
        ("a <think>", "<|assistant|><think>\n\n</think>\n\n", THINK),
        ("a [THINK] b [/THINK]", "[/INST]", Marks("[THINK]", "[/THINK]", is_open=False)),
    ],
)
def test_marks_are_those_of_the_chat_template(template, before, marks):
    assert find_marks(template, before) == marks


class Vocab:
    """Marks of one control token, <think>, and of text, </think>."""

    def tokens(self, text, special):
        return [1] if text == b"<think>" else [2, 3]

    def piece(self, token):
        return b"" if token == 1 else b"x"

    def text(self, token):
        return {1: "<think>", 2: "</th", 3: "ink>"}[token]


def test_control_tokens_of_the_marks_are_text():
    assert mark_pieces(THINK, Vocab()) == {1: b"<think>"}
    assert mark_pieces(None, Vocab()) == {}


def test_a_channel_of_reasoning():
    marks = find_marks("<|start|>assistant<|channel|>analysis<|message|>", "<|start|>assistant")
    text = "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert divided(marks, list(text)) == ("one", "Yes.")


def test_reasoning_is_folded_into_a_line_in_front_of_the_reply():
    ui, fold = Shown(), Fold(THINK)
    replies = fold.replies(["<think>", "one", " two", "\nthree</think>", "\n\n", "Yes", "."], ui)
    assert next(replies) == "Yes"
    assert len(ui.lines) == 1 and re.fullmatch(r"thought: 4 tokens in \d+\.\d s; /thinking shows it", ui.lines[0]), ui.lines
    assert list(replies) == ["."] and len(ui.lines) == 1
    assert fold.lines() == ["one two", "three"]


def test_a_spinner_turns_while_the_model_thinks():
    ui, seen = Shown(), []

    def pieces():
        for piece in ["<think>", "one", "</think>", "Yes."]:
            seen.append(list(ui.lines))
            yield piece

    assert list(Fold(THINK).replies(pieces(), ui)) == ["Yes."]
    assert seen == [[], ["thinking..."], ["thinking..."], ["thinking..."]] and len(ui.lines) == 1


def test_the_whole_text_of_a_reply_is_divided():
    assert divide("<think>\none\n</think>\n\nYes.", THINK) == ("one", "Yes.")
    assert divide("Yes.", None) == ("", "Yes.")


def test_reasoning_can_be_shown_line_by_line():
    ui, fold = Shown(), Fold(THINK, is_shown=True)
    assert list(fold.replies(["<think>one", " two\nth", "ree\n\nfour", "</think>Yes."], ui)) == ["Yes."]
    assert ui.lines[:3] == ["one two", "three", "four"]
    assert len(ui.lines) == 4 and ui.lines[3].startswith("thought: 3 tokens in ") and "/thinking" not in ui.lines[3]


def test_a_reply_that_is_cut_while_the_model_thinks_says_so():
    ui, fold = Shown(), Fold(THINK)
    assert list(fold.replies(["<think>one", " two"], ui)) == []
    assert len(ui.lines) == 1 and ui.lines[0].startswith("was still thinking when the reply was cut: 2 tokens in ")
    assert fold.lines() == ["one two"]


def test_models_that_do_not_think_are_left_alone():
    ui, fold = Shown(), Fold(None)
    assert list(fold.replies(["<think>", "", "x"], ui)) == ["<think>", "x"] and ui.lines == []
    with pytest.raises(ValueError, match="this model does not think before it replies"):
        fold.lines()
    thinking = Fold(THINK)
    assert list(thinking.replies(["Yes."], ui)) == ["Yes."] and ui.lines == []
    with pytest.raises(ValueError, match="the last reply has no reasoning"):
        thinking.lines()


def test_an_empty_reasoning_is_not_told():
    ui = Shown()
    assert list(Fold(THINK).replies(["<think>", "\n\n", "</think>", "\n\n", "Yes."], ui)) == ["Yes."]
    assert ui.lines == []
