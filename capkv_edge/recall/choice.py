"""Which passages come back for a turn: those that pass the gate, are new, and fit, if the cache has lost one of them."""

import math
from dataclasses import dataclass

from .archive import Archive, Passage
from .query import Found, Weigher, names_in


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

    least: float = 0.8
    share: float = 0.6
    sure: float = 1.2


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
        return [hit for _, hit in self._hits(self._weigher.find(self.archive.index, text), n_max)]

    def _hits(self, found: Found, n_max: int) -> list:
        """[(number, Hit)], as search()."""
        unit, out = math.log(self.archive.index.n + 1), []
        for number in sorted(found.passages, key=lambda number: (found.passages[number], number), reverse=True):
            if len(out) == n_max:
                break
            passage, weight = self.archive.passage(number), found.passages[number]
            if _is_apart(passage, [hit.passage for _, hit in out]):
                out.append((number, Hit(passage, weight / unit, weight / found.weight)))
        return out

    def find(self, text: str, quota: int, is_gone=lambda passage: True, is_new=lambda passage: True) -> Recalled | None:
        """What comes back for a turn with this text; None where nothing does.

        Nothing does unless a passage is gone. With it come the others, behind it in rank: a model takes what it is shown for all
        that there is, so of four things that were asked for it would leave out the one that is still held.

        Where not all passages fit, each is cut down to the sentences that have the words of the turn. To each of them, the best
        first, belong the sentences with a name that it has and the turn has not, as where a program uses what it defined elsewhere.

        Args:
            quota: tokens of the passages with their marks, at most.
            is_gone: a function from a Passage to whether the cache no longer holds it.
            is_new: a function from a Passage to whether it may come at all.
        """
        if quota <= self._count(marked(())) or not self.archive.index.n:
            return None
        found = self._weigher.find(self.archive.index, text)
        hits = [(number, hit.passage) for number, hit in self._hits(found, _N_HITS) if self.passes(hit) and is_new(hit.passage)]
        gone = {number for number, passage in hits if is_gone(passage)}
        hits.sort(key=lambda hit: hit[0] not in gone)
        short, seen, is_lost = [], set(names_in(text)), bool(gone)
        for number, passage in hits:
            one = self.archive.excerpt(passage, found.texts_in(number))
            led = self._led_from(one, seen, is_new)
            short += [one, *(sentence for sentence, _ in led)]
            is_lost = is_lost or any(is_gone(source) for _, source in led)
        if not is_lost:
            return None
        whole = _apart([passage for _, passage in hits] + short)
        out = whole if self._fits(whole, quota) else self._fitting(short, quota)
        passages = tuple(sorted(out, key=lambda passage: passage.begin))
        return Recalled(passages, marked(passages)) if passages else None

    def _led_from(self, first: Passage, seen: set, is_new) -> list:
        """[(sentences, the passage that they are of)] that names lead to from a sentence to others, the nearest first. The names are
        added to those that were seen."""
        out = [(first, first)]
        for one, _ in out:
            for name in names_in(one.text):
                if name not in seen and len(out) <= _N_HITS:
                    seen.add(name)
                    numbers = self.archive.index.holding("words", name, _N_LED + 1)
                    led = [self.archive.passage(number) for number in numbers] if len(numbers) <= _N_LED else []
                    led = [(self.archive.excerpt(source, [name]), source) for source in led if is_new(source)]
                    out += [pair for pair in led if _is_apart(pair[0], [sentence for sentence, _ in out])]
        return out[1:]

    def _fitting(self, passages: list, quota: int) -> list:
        """Those that fit beside the ones before them."""
        out = []
        for passage in _apart(passages):
            if self._fits([*out, passage], quota):
                out.append(passage)
        return out

    def _fits(self, passages: list, quota: int) -> bool:
        return self._count(marked(passages)) <= quota


def _apart(passages: list) -> list:
    """Those that share no token with one before them."""
    out = []
    for passage in passages:
        if _is_apart(passage, out):
            out.append(passage)
    return out


def _is_apart(passage: Passage, others: list) -> bool:
    """Whether a passage shares no token with others."""
    return all(passage.end <= other.begin or other.end <= passage.begin for other in others)
