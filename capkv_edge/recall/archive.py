"""The tokens of a conversation and an index of their passages: what was read can be searched, whatever a cache still holds of it."""

from array import array
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from . import passages
from .index import Index


_N_CONTEXT = 8  # tokens before a passage that tell how it begins


@dataclass(frozen=True)
class Passage:
    """Tokens `begin` to `end` (positions; the last is end - 1), and their text."""

    begin: int
    end: int
    text: str


class Archive:
    """Token ids by position, 4 bytes each, and passages of them.

    A passage depends on its tokens and the N_MAX + 1 from its beginning on, so one that begins nearer to the end is cut anew when the
    text goes on.

    Args:
        piece: a function from a token id to what it adds to a text, bytes; nothing for a control token.

    Raises:
        NoIndexError: SQLite has no FTS5.
    """

    def __init__(self, piece):
        self._piece, self._known = piece, {}
        self.index = Index()
        self._tokens = array("i")
        self._begins, self._ends = array("i"), array("i")  # of the passages
        self._next = 0  # where the next passage begins, or a gap
        self._n_gone = 0
        self.gaps = []  #: [(begin, end)] of what leave_out() was given, ascending

    @property
    def n_tokens(self) -> int:
        """Length of the text."""
        return len(self._tokens)

    @property
    def n_bytes(self) -> int:
        """Memory: token ids, the places of passages, and the index."""
        return 4 * (len(self._tokens) + 2 * len(self._begins)) + self.index.n_bytes

    def n_shared(self, tokens: np.ndarray) -> int:
        """How many of the first tokens are the same here, int32 [n]."""
        n = min(len(tokens), self.n_tokens)
        differ = np.flatnonzero(np.frombuffer(self._tokens, dtype=np.int32)[:n] != tokens[:n]) if n else ()
        return int(differ[0]) if len(differ) else n

    def text(self, begin: int, end: int) -> str:
        """The text of some tokens. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._pieces(begin, end)).decode("utf-8", "replace")

    def passage(self, number: int) -> Passage:
        """A passage by its number in the index."""
        begin, end = self._begins[number - 1], self._ends[number - 1]
        return Passage(begin, end, self.text(begin, end))

    def excerpt(self, passage: Passage, texts: list) -> Passage:
        """The sentences of a passage from the first to the last that has one of the texts; all of it where none has."""
        pieces = self._pieces(passage.begin, passage.end)
        kinds = passages.borders(pieces)
        starts = [0, *(i for i in range(1, len(pieces)) if passages.ends_line(kinds[i])), len(pieces)]
        words = [text.lower() for text in texts]
        held = []
        for begin, end in zip(starts, starts[1:]):
            sentence = b"".join(pieces[begin:end]).decode("utf-8", "replace").lower()
            if any(word in sentence for word in words):
                held.append((begin, end))
        if not held:
            return passage
        begin, end = passage.begin + held[0][0], passage.begin + held[-1][1]
        return Passage(begin, end, self.text(begin, end))

    # --- growing, going back ---

    def extend(self, tokens, n_gone: int) -> None:
        """Add tokens behind the others, and index what is before position n_gone, in passages that may reach beyond it."""
        self._drop_from(self.n_tokens)
        self._tokens.extend(tokens)
        self._n_gone = n_gone
        self._cut()

    def rewind(self, n: int) -> None:
        """Keep the first n tokens alone, and forget what was to be left out behind them."""
        self._drop_from(min(n, self.n_tokens))
        del self._tokens[n:]
        self.gaps = [(begin, min(end, n)) for begin, end in self.gaps if begin < n]
        self._cut()

    def leave_out(self, begin: int, end: int) -> None:
        """Tokens that are not to be found, though they are a part of the text.

        Raises:
            ValueError: they are not behind n_tokens and behind those of earlier calls.
        """
        least = max(self.n_tokens, self.gaps[-1][1] if self.gaps else 0)
        if not least <= begin <= end:
            raise ValueError(f"leave_out({begin}, {end}): allowed is a range from {least} on")
        if begin < end:
            self.gaps.append((begin, end))

    def _drop_from(self, n: int) -> None:
        """Remove the passages that depend on tokens behind the first n."""
        k = bisect_right(self._begins, n - passages.N_MAX - 1)
        if k < len(self._begins):
            self.index.remove([self.passage(i).text for i in range(k + 1, len(self._begins) + 1)])
            self._next = min(self._begins[k], n)  # less where it begins behind a gap that now ends at n
            del self._begins[k:], self._ends[k:]

    def _cut(self) -> None:
        begin, found = self._behind_gap(self._next), []
        first = max(begin - _N_CONTEXT, 0)
        kinds = passages.borders(self._pieces(first, self.n_tokens)) if begin < min(self._n_gone, self.n_tokens) else None
        while begin < min(self._n_gone, self.n_tokens):
            limit = min([self.n_tokens, *(gap for gap, _ in self.gaps if gap >= begin)])
            end = first + passages.end_of(kinds[: limit - first + 1], begin - first)
            found.append((begin, end))
            self._next = end if end == limit else first + passages.begin_after(kinds, begin - first, end - first)
            begin = self._behind_gap(self._next)
        self.index.add([self.text(*one) for one in found])
        self._begins.extend(begin for begin, _ in found)
        self._ends.extend(end for _, end in found)

    def _behind_gap(self, at: int) -> int:
        for begin, end in self.gaps:
            at = end if begin <= at < end else at
        return at

    def _pieces(self, begin: int, end: int) -> list:
        out = []
        for token in self._tokens[begin:end]:
            if token not in self._known:
                self._known[token] = self._piece(token)
            out.append(self._known[token])
        return out
