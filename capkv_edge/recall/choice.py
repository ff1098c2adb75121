"""Which passages come back for a turn: those that pass the gate, are gone from the cache, are new, and fit."""

import math
from dataclasses import dataclass

from .archive import Archive, Passage
from .query import Weigher, names_in


QUOTA = 256  #: tokens that may come back for one turn

# what stands around recalled passages, so that model and user see what they are
_BEFORE, _BETWEEN, _AFTER = "\n\n[Recalled from earlier in this conversation:\n", "\n...\n", "\n]"


@dataclass(frozen=True)
class Recalled:
    """What comes back for a turn: passages in the order of their positions, and their text with its marks, to be put into the turn."""

    passages: tuple
    text: str


def marked(passages) -> str:
    """The text of passages with the marks around it."""
    return _BEFORE + _BETWEEN.join(passage.text.strip() for passage in passages) + _AFTER


@dataclass(frozen=True)
class Gate:
    """What a passage must hold of a query. docs/recall.md says on which data the numbers were chosen.

    Its terms must weigh `least`, where 1 is a word that one passage alone has, and be a share `share` of the query's weight; or weigh
    `sure`, whatever else the query has.
    """

    least: float = 0.75
    share: float = 0.5
    sure: float = 1.4


@dataclass(frozen=True)
class Hit:
    """A passage that a query found. `weight` is in units of a word that one passage alone has; `share` is of the query's weight."""

    passage: Passage
    weight: float
    share: float


_N_HITS = 16  # hits of a search of which some may still be held, or not fit
_N_LED = 6  # a name that more passages have does not lead to them


class Choice:
    """Searches an archive.

    Args:
        count: a function from text to its number of tokens.
    """

    def __init__(self, archive: Archive, weigher: Weigher, count, gate: Gate | None = None):
        self.archive, self._weigher, self._count, self.gate = archive, weigher, count, gate or Gate()

    def passes(self, hit: Hit) -> bool:
        """Whether a hit is good enough to come back by itself."""
        gate = self.gate
        return hit.weight >= gate.sure or (hit.weight >= gate.least and hit.share >= gate.share)

    def search(self, text: str, n_max: int) -> list:
        """The best Hits, at most n_max, of those that are equal the latest first. None of them shares tokens with a better one."""
        found = self._weigher.find(self.archive.index, text)
        unit = math.log(self.archive.index.n + 1)
        out = []
        for number in sorted(found.passages, key=lambda number: (found.passages[number], number), reverse=True):
            if len(out) == n_max:
                break
            passage, weight = self.archive.passage(number), found.passages[number]
            if all(passage.end <= hit.passage.begin or hit.passage.end <= passage.begin for hit in out):
                out.append(Hit(passage, weight / unit, weight / found.weight))
        return out

    def find(self, text: str, quota: int, is_wanted) -> Recalled | None:
        """What comes back for a turn with this text; None where nothing does.

        Behind the passages that the text asks for come, while there is room, passages with a name that those have and the text has
        not, as where a program uses what it defined elsewhere.

        Args:
            quota: tokens of the passages with their marks, at most.
            is_wanted: a function from a Passage to whether it may come.
        """
        n_tokens = quota - self._count(marked(()))
        if n_tokens <= 0 or not self.archive.index.n:
            return None
        passages = self._choose(text, n_tokens, is_wanted)
        while passages and self._count(marked(passages)) > quota:
            passages.pop()
        passages.sort(key=lambda passage: passage.begin)
        return Recalled(tuple(passages), marked(passages)) if passages else None

    def _choose(self, text: str, n_tokens: int, is_wanted) -> list:
        out = []
        n_left = self._take([hit.passage for hit in self.search(text, _N_HITS) if self.passes(hit)], n_tokens, is_wanted, out)
        seen, i = set(names_in(text)), 0
        while i < len(out) and n_left > 0:
            for name in names_in(out[i].text):
                if name not in seen:
                    numbers = self.archive.index.holding("words", name, _N_LED + 1)
                    led = [self.archive.passage(number) for number in numbers] if len(numbers) <= _N_LED else []
                    n_left = self._take(led, n_left, is_wanted, out)
                    seen.add(name)
            i += 1
        return out

    def _take(self, passages: list, n_left: int, is_wanted, out: list) -> int:
        for passage in passages:
            n = self._count(passage.text)
            apart = all(passage.end <= other.begin or other.end <= passage.begin for other in out)
            if n <= n_left and apart and is_wanted(passage):
                out.append(passage)
                n_left -= n
        return n_left
