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


@dataclass(frozen=True)
class Item:
    """A question, asked alone. `depth`: where in the text its needle is (0 to 1); None where the answer is all over the text."""

    question: str
    expected: tuple
    n_predict: int  #: tokens of the answer, at most
    answer_prefix: str = ""  #: the model's reply is made to begin with it; not part of the answer
    depth: float | None = None
    check: Callable = match_all  #: (answer, expected) -> score from 0 to 1

    def score(self, answer: str) -> float:
        return self.check(answer, self.expected)

    @property
    def has_one_answer(self) -> bool:
        """Whether exactly one string is expected."""
        return self.check is match_all and len(self.expected) == 1

    def is_settled(self, answer: str) -> bool:
        """Whether the score stays the same whatever is added to the answer."""
        return self.check is match_all and match_all(answer, self.expected) == 1


@dataclass(frozen=True)
class Text:
    """What is read before the question: turns (role, content) of a conversation, then the beginning of the user's last turn."""

    prefix: str
    items: tuple
    turns: tuple = ()


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
        """The longest text that fits: the head, then the haystack from its `start` (0 to 1) with needles [(depth, text)] in it."""
        haystack = haystack or self.haystack

        def build(n: int) -> Text:
            body = bury(haystack.cut(start, n, self.tokens), needles)
            return Text(head + body.rstrip() + "\n", items)

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
