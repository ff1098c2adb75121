"""What a retrieval task makes: a text that is read first, and questions about it whose answers a program can score."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .haystacks import Haystack, bury

_GOLDEN = 0.6180339887498949  # any number of its multiples, modulo 1, is spread evenly
_SLACK = 4  # a text may be so many tokens shorter than its length
_MAX_TRIES = 12


def match_all(answer: str, expected) -> float:
    """The share of the expected strings that stand in the answer; case does not matter."""
    answer = answer.lower()
    return sum(text.lower() in answer for text in expected) / len(expected)


def match_any(answer: str, expected) -> float:
    """1 where one of the expected strings stands in the answer, else 0; case does not matter."""
    return float(any(text.lower() in answer.lower() for text in expected))


@dataclass(frozen=True)
class Item:
    """A question, asked alone. `depth`: where in the text its needle is (0 to 1); None where the answer is all over the text."""

    question: str
    expected: tuple
    n_predict: int  #: tokens of the answer, at most
    answer_prefix: str = ""  #: the model's reply is made to begin with it; not part of the answer
    depth: float | None = None
    check: Callable = match_all  #: (answer, expected) -> score from 0 to 1
    marks: tuple | None = None  #: what stands before each expected string in the answer; None: commas between them
    n_choices: int | None = None  #: values that each expected string could have, for who knows its form alone; None: not known

    def score(self, answer: str) -> float:
        return self.check(answer, self.expected)

    @property
    def reference(self) -> tuple:
        """The expected answer in parts, ((text, whether its likelihood counts), ...); of several right answers the first.

        Empty where any other answer may be as right. What stands between the expected strings does not count.
        """
        if self.check not in (match_all, match_any):
            return ()
        expected = self.expected[:1] if self.check is match_any else self.expected
        marks = self.marks or ("", *("," for _ in expected[1:]))
        out = []
        for i, (mark, text) in enumerate(zip(marks, expected)):
            is_spaced = not mark and not i and self.answer_prefix[-1:].isspace()
            out += [(mark, False)] if mark else []
            out.append((text if is_spaced else f" {text}", True))
        return tuple(out)

    def is_settled(self, answer: str) -> bool:
        """Whether the score stays the same whatever is added to the answer."""
        return self.check in (match_all, match_any) and self.score(answer) == 1


@dataclass(frozen=True)
class Text:
    """What is read before the question: turns (role, content) of a conversation, then the beginning of the user's last turn."""

    prefix: str
    items: tuple
    turns: tuple = ()
    evidence: tuple = ()  #: the passages that have the answers, as they stand in it; empty: they are all over the text
    haystack_at: int | None = None  #: the character at which its part of a haystack begins; None: made for this text


@dataclass(frozen=True)
class Draft:
    """What a text is made from; the text depends on nothing else.

    Args:
        tokens: a function from text to its number of tokens.
        size: a function from a Text to the tokens that it takes with chat template, longest question and answer.
        length: tokens that a Text may take; of a dialogue, the number of its turns.
        share: questions per text.
        depths: of the needles, in turn from text to text; empty: spread evenly.
    """

    task: str
    haystack: Haystack | None
    length: int
    index: int
    tokens: Callable
    size: Callable
    seed: int = 0
    share: int = 1
    depths: tuple = ()

    def rng(self, indexed: bool = True) -> np.random.Generator:
        """Random numbers of this text: the same for the same seed, task, length and index; without `indexed`, for all indices."""
        return np.random.default_rng([self.seed, _number(self.task), self.length, *([self.index] if indexed else [])])

    def depth(self, i: int, n: int | None = None) -> float:
        """Where needle i of n goes; None: n is `share`."""
        n = n or self.share
        if self.depths:
            return self.depths[(self.index * n + i) % len(self.depths)]
        offset = np.random.default_rng([self.seed, _number(self.task)]).random()
        return round((offset + self.index * _GOLDEN + i / n) % 1, 4)

    def hide(self, head: str, needles: list, items: tuple, *, haystack: Haystack | None = None, evidence: tuple = ()) -> Text:
        """The longest text that fits: the head, then a haystack with needles [(depth, text)] in it.

        Texts of different index have stretches of the haystack that do not overlap, as long as it has more of them.

        haystack: instead of the draft's; it is read from its beginning. evidence: as Text's.
        """
        pieces, at = haystack or self.haystack, 0
        if haystack is None:
            starts = pieces.stretches(self.length, self.tokens)
            order = np.random.default_rng([self.seed, self.length]).permutation(len(starts))
            at = starts[order[self.index % len(starts)]]
        offset = sum(map(len, pieces.pieces[:at])) if len(pieces.pieces) > 1 and haystack is None else None

        def build(n: int) -> Text:
            body = bury(pieces.cut(at, n, self.tokens), needles)
            return Text(head + body.rstrip() + "\n", items, (), evidence, offset)

        return self.fit(build)

    def fit(self, build, most: int | None = None) -> Text:
        """The largest build(n), n = 0 to `most`, that takes at most `length` tokens; it may be a few tokens short of the largest.

        Raises:
            ValueError: build(0) takes more than `length` tokens.
        """
        best = build(0)
        first = used = self.size(best)
        if used > self.length:
            raise ValueError(f"length = {self.length}: a text of the task {self.task} takes at least {used} tokens")
        low, high = 0, (self.length if most is None else most) + 1
        n = min(self.length - used, high - 1)
        for _ in range(_MAX_TRIES):
            if high - low <= 1 or self.length - used <= _SLACK:
                break
            text = build(n)
            size = self.size(text)
            if size <= self.length:
                low, best, used = n, text, size
            else:
                high = n
            step = (self.length - used) * n // max(size - first, 1)  # from the tokens that n has cost so far
            n = low + max(1, step)
            if n >= high:
                n = (low + high) // 2
        return best


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
