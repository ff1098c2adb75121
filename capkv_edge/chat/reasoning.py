"""The reasoning of thinking models: told from the reply in the stream of a reply's text, and folded in what is shown."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from .marker import n_held

COMMANDS = {"/thinking": "show what the model thought before its last reply"}

#: (what begins reasoning, what ends it), as the chat templates of thinking models have them
_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)


@dataclass(frozen=True)
class Marks:
    """The marks of a model's reasoning. is_open: the template itself begins the reasoning, in front of the reply."""

    begin: str
    end: str
    is_open: bool


def find_marks(template: str, before_reply: str) -> Marks | None:
    """The marks that a chat template has; None for a model that does not think.

    Args:
        template: its text.
        before_reply: the rendered text in front of a reply.
    """
    for begin, end in _PAIRS:
        if begin in template or end in template:
            return Marks(begin, end, before_reply.rpartition(begin)[1] != "" and end not in before_reply.rpartition(begin)[2])
    return None


def mark_pieces(marks: Marks | None, vocab) -> dict:
    """{token id: its text, bytes} of the control tokens that the marks are made of, which a reply's text otherwise lacks.

    vocab: a vocab.Vocab.
    """
    if marks is None:
        return {}
    tokens = vocab.tokens(marks.begin.encode(), special=True) + vocab.tokens(marks.end.encode(), special=True)
    return {token: vocab.text(token).encode() for token in tokens if not vocab.piece(token)}


class Reasoning:
    """Divides the stream of one reply. Reasoning is what stands between the marks at its beginning; later marks are text as any other."""

    def __init__(self, marks: Marks | None):
        self._marks, self._held = marks, ""
        self._state = "reply" if marks is None else "reasoning" if marks.is_open else "start"

    @property
    def is_open(self) -> bool:
        """Whether reasoning has begun and not ended."""
        return self._state == "reasoning"

    def feed(self, text: str) -> tuple:
        """(reasoning, reply) that this text adds. What may be the beginning of a mark is held back until that is known."""
        self._held += text
        reasoning = ""
        if self._state == "start":
            text = self._held.lstrip()
            if self._marks.begin.startswith(text) and text != self._marks.begin:
                return "", ""
            if text.startswith(self._marks.begin):
                self._held = text.removeprefix(self._marks.begin)
            self._state = "reasoning" if text.startswith(self._marks.begin) else "reply"
        if self._state == "reasoning":
            reasoning, found, rest = self._held.partition(self._marks.end)
            n = 0 if found else n_held(reasoning, self._marks.end)
            reasoning, self._held = reasoning[: len(reasoning) - n], rest if found else reasoning[len(reasoning) - n :]
            self._state = "gap" if found else "reasoning"
        if self._state == "gap":  # blank lines between the reasoning and the reply
            self._held = self._held.lstrip()
            self._state = "reply" if self._held else "gap"
        if self._state != "reply":
            return reasoning, ""
        reply, self._held = self._held, ""
        return reasoning, reply

    def flush(self) -> tuple:
        """(reasoning, reply) that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return (held, "") if self.is_open else ("", held)


def divide(text: str, marks: Marks | None) -> tuple:
    """(reasoning, reply) of the whole text of a reply."""
    stream = Reasoning(marks)
    parts = [stream.feed(text), stream.flush()]
    return "".join(reasoning for reasoning, _ in parts).strip(), "".join(reply for _, reply in parts)


def command(chat, name: str, rest: str) -> list:
    """The lines of /thinking. Raises ValueError if there is nothing to show, with the reason."""
    return chat.fold.lines()


class Fold:
    """Shows replies without their reasoning, and says how long it took.

    Args:
        marks: of the model.
        is_shown: show the reasoning too, as lines of ui.info().
    """

    def __init__(self, marks: Marks | None, is_shown: bool = False):
        self.marks, self.is_shown = marks, is_shown
        self.last = ""  #: the reasoning of the last reply

    def replies(self, pieces: Iterable[str], ui) -> Iterator[str]:
        """The pieces of a reply that are to be shown as the reply; `ui` is as in loop."""
        stream, start, n, line = Reasoning(self.marks), time.perf_counter(), 0, ""
        self.last = ""
        with ExitStack() as waiting:
            for piece in pieces:
                reasoning, reply = stream.feed(piece)
                if stream.is_open and n == 0 and not self.is_shown:
                    waiting.enter_context(ui.progress("thinking"))
                n += bool(reasoning) or stream.is_open
                line = self._take(reasoning, line, ui)
                if reply:
                    waiting.close()
                    n = self._close(line, n, start, ui)
                    yield reply
        reasoning, reply = stream.flush()
        self._close(self._take(reasoning, line, ui), n, start, ui, cut=stream.is_open)
        if reply:
            yield reply

    def _take(self, text: str, line: str, ui) -> str:
        """Keep reasoning, and show what of it is whole lines; returns the rest, which is shown with what comes."""
        self.last += text
        if not self.is_shown:
            return ""
        *lines, line = (line + text).split("\n")
        for whole in lines:
            if whole.strip():
                ui.info(whole)
        return line

    def _close(self, line: str, n: int, start: float, ui, cut: bool = False) -> int:
        """Say how long it took, if that was not said yet."""
        if not n or not self.last.strip():
            return 0
        if line.strip():
            ui.info(line)
        more = "" if self.is_shown else "; /thinking shows it"
        what = "was still thinking when the reply was cut" if cut else "thought"
        ui.info(f"{what}: {n:,} tokens in {time.perf_counter() - start:.1f} s{more}")
        return 0

    def lines(self) -> list:
        """The reasoning of the last reply. Raises ValueError if there is none, with the reason."""
        if not self.last.strip():
            reason = "the last reply has no reasoning" if self.marks else "this model does not think before it replies"
            raise ValueError(f"/thinking: {reason}")
        return self.last.strip().split("\n")
