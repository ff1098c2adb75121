"""What a retrieval task makes: a text, read before anything is asked, and questions about it that a program can score."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .haystacks import Haystack, bury

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread evenly however many there are
_SLACK = 4  # tokens by which a text may fall short of its length before another try
_MAX_TRIES = 12


def match_all(answer: str, expected) -> float:
    """The share of the expected strings that stand in the answer, in upper or lower case."""
    answer = answer.lower()
    return sum(text.lower() in answer for text in expected) / len(expected)


@dataclass(frozen=True)
class Item:
    """A question, asked alone. `depth`: where in the text its needle is (0 to 1), None where the answer is all over the text."""

    question: str
    expected: tuple
    n_predict: int  #: tokens of the answer, at most
    answer_prefix: str = ""  #: what the reply is made to begin with; not part of the answer
    depth: float | None = None
    check: Callable = match_all  #: (answer, expected) to a score from 0 to 1

    def score(self, answer: str) -> float:
        return self.check(answer, self.expected)

    @property
    def has_one_answer(self) -> bool:
        """Whether there is one string to expect."""
        return self.check is match_all and len(self.expected) == 1

    def is_settled(self, answer: str) -> bool:
        """Whether no word that is added can change the score."""
        return self.check is match_all and match_all(answer, self.expected) == 1


@dataclass(frozen=True)
class Text:
    """What is read before the question: turns of a conversation (role, content), then the beginning of the user's last turn."""

    prefix: str
    items: tuple
    turns: tuple = ()


@dataclass(frozen=True)
class Draft:
    """What a text is made from; the text depends on nothing else.

    Args:
        tokens: a function from text to its number of tokens.
        size: a function from a Text to all tokens that it takes: chat template, longest question, its answer.
        length: tokens that a Text may take; of a dialogue, its turns.
        share: questions per text.
        depths: where needles are put, one after another from text to text; empty is an even spread.
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

    def rng(self) -> np.random.Generator:
        """Random numbers of this text: the same for the same seed, task, length and index."""
        return np.random.default_rng([self.seed, _number(self.task), self.length, self.index])

    def depth(self, i: int) -> float:
        """Where the needle of question i goes."""
        if self.depths:
            return self.depths[(self.index * self.share + i) % len(self.depths)]
        offset = np.random.default_rng([self.seed, _number(self.task)]).random()
        return round((offset + self.index * _GOLDEN + i / self.share) % 1, 4)

    def hide(self, head: str, needles: list, items: tuple, start: float, haystack: Haystack | None = None) -> Text:
        """The longest text of head and haystack, from its `start`, with needles [(depth, text)] in it."""
        haystack = haystack or self.haystack

        def build(n: int) -> Text:
            body = bury(haystack.cut(start, n, self.tokens), needles)
            return Text(head + body.rstrip() + "\n", items)

        return self.fit(build)

    def fit(self, build, most: int | None = None) -> Text:
        """The largest build(n), n = 0 to `most`, that takes at most `length` tokens, or up to a few less.

        Raises:
            ValueError: build(0) takes more.
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
            step = (self.length - used) * n // max(size - first, 1)  # by the tokens that one more n has cost so far
            n = low + max(1, step)
            if n >= high:
                n = (low + high) // 2
        return best


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
