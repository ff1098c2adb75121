"""Long texts to hide needles in: repeated noise, a corpus, or the user's own files, cut to a number of tokens."""

import hashlib
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from . import corpora

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"

_MAX_PIECE = 600  # characters; longer sentences are cut
_SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*\s+|\n\s*\n\s*|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Haystack:
    """A text in pieces, which are sentences with the white space behind them; it starts again where it ends.

    whole: a cut ends with a whole piece.
    """

    name: str
    pieces: tuple
    whole: bool = False

    def stretches(self, n_tokens: int, tokens) -> list:
        """The pieces at which parts of n_tokens tokens begin that do not overlap; [0] where the text is shorter than two.

        Args:
            tokens: as cut()'s.
        """
        out, n_left = [0], n_tokens
        for i, piece in enumerate(self.pieces):
            if n_left <= 0:
                out.append(i)
                n_left = n_tokens
            n_left -= max(1, tokens(piece))
        return out if n_left <= 0 or len(out) == 1 else out[:-1]

    def cut(self, start: int, n_tokens: int, tokens) -> list:
        """[(piece, its tokens)] of at most n_tokens tokens in all, from piece number `start` of the text.

        Without `whole`, the last piece may be the beginning of a sentence.

        Args:
            tokens: a function from text to its number of tokens.
        """
        out, i, n_left = [], start, n_tokens
        while True:
            piece = self.pieces[i % len(self.pieces)]
            n = max(1, tokens(piece))
            if n > n_left:
                break
            out.append((piece, n))
            i, n_left = i + 1, n_left - n
        if not self.whole and n_left:
            words = re.findall(r"\S+\s*", piece)
            n_words = bisect_right(range(1, len(words)), n_left, key=lambda k: tokens("".join(words[:k])))
            if n_words:
                beginning = "".join(words[:n_words])
                out.append((beginning, tokens(beginning)))
        return out


def bury(pieces: list, needles: list) -> str:
    """The text of the pieces of a cut() with needles [(depth, sentence)] between them.

    The depth (0 to 1) is the share of the pieces' tokens before the needle. Needles at one place stay in their order."""
    ends = [0, *accumulate(n for _, n in pieces)]
    if pieces and not _ends_sentence(pieces[-1][0]):
        ends.pop()  # no needle after a sentence that is cut off
    at = [[] for _ in range(len(pieces) + 1)]
    for depth, sentence in needles:
        wanted = depth * sum(n for _, n in pieces)
        i = min(bisect_left(ends, wanted), len(ends) - 1)
        at[i - 1 if i and wanted - ends[i - 1] < ends[i] - wanted else i].append(sentence)
    out, space = [], _space(pieces[0][0]) if pieces else "\n"
    for i, sentences in enumerate(at):
        out += [sentence + space for sentence in sentences]
        if i < len(pieces):
            out.append(pieces[i][0])
            space = _space(out[-1]) or " "
    return "".join(out)


def _space(piece: str) -> str:
    return piece[len(piece.rstrip()) :]


def _ends_sentence(piece: str) -> bool:
    return bool(re.search(r"[.!?][\"')\]]*\s*\Z|\n\s*\n\Z", piece))


# --- where texts come from ---


@cache
def load(name: str) -> Haystack:
    """A haystack by name: "noise", or what corpora.load() takes. The result's name has a digest of the text where that is files.

    Raises:
        OSError, ValueError: as corpora.load().
    """
    if name == "noise":
        return Haystack(name, (NOISE,), whole=True)
    text = "\n\n".join(text for _, text in corpora.load(name))
    if name == "essays":  # their lines are wrapped, and some paragraphs have lost the break between them
        text = " ".join(re.sub(r"(?<=[a-z)][.?!])(?=[A-Z])", " ", text).split())
    if name not in corpora.CORPORA:
        name = f"{Path(name).name}#{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    return Haystack(name, split(text))


def split(text: str) -> tuple:
    """Sentences with the white space behind them; joined they are the text, without white space before the first."""
    out = []
    for piece in _SENTENCE.findall(text):
        while len(piece) > _MAX_PIECE:
            cut = max(piece.rfind(mark, 1, _MAX_PIECE) for mark in "\n ") + 1 or _MAX_PIECE
            out.append(piece[:cut])
            piece = piece[cut:]
        out.append(piece)
    return tuple(piece for piece in out if piece)
