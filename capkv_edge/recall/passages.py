"""Where a text of tokens is cut into passages: at sentences, if possible, each passage beginning a little before the last one ends."""

import re

import numpy as np

#: tokens of a passage: at least (but at the end of a text), at most, and how many it may share with the one before
N_MIN, N_MAX, N_SHARED = 64, 128, 32

# a full stop behind an initial or a title ends no sentence
_END = re.compile(
    rb"(?:[!?]|(?<!\b[A-Z])(?<!\b[DMS][rst])(?<!\bMrs)(?<!\bProf)\.)(?:[\"')\]]|\xe2\x80[\x99\x9d])*(?=\s)"
    rb"|\xe3\x80\x82|\xef\xbc[\x81\x9f]"  # the same in Chinese and Japanese, where no space follows
    rb"|\n\s*\n"
)
# or a full stop that lacks the space behind it
_LINE_END = re.compile(rb"\n|(?<=[a-z0-9)])[.!?](?=[A-Z])")
_SENTENCE, _LINE, _WORD, _CHARACTER = _KINDS = 4, 3, 2, 1


def borders(pieces: list) -> np.ndarray:
    """What begins at each token: 4 a sentence, 3 a line, 2 a word, 1 a character, 0 none of them. int8 [n + 1].

    Args:
        pieces: what each token adds to the text, bytes; nothing for a control token, which begins a sentence.
    """
    text = b"".join(pieces)
    ends = np.cumsum([0, *map(len, pieces)])
    kinds = np.zeros(len(pieces) + 1, dtype=np.int8)
    for i, piece in enumerate(pieces):
        first = piece[:1]
        kinds[i] = _SENTENCE if not first else _WORD if first.isspace() else 0 if 0x80 <= first[0] < 0xC0 else _CHARACTER
    # a token that reaches over the end of a sentence or line belongs to it
    for kind, pattern in ((_LINE, _LINE_END), (_SENTENCE, _END)):
        kinds[np.searchsorted(ends, [match.end() for match in re.finditer(pattern, text)])] = kind
    kinds[-1] = max(kinds[-1], _CHARACTER)
    return kinds


def ends_line(kind: int) -> bool:
    """Whether a sentence or a line begins at a token, from what borders() says of it."""
    return kind >= _LINE


def end_of(kinds: np.ndarray, begin: int) -> int:
    """Where the passage that begins at token `begin` ends, if there are N_MAX tokens from there on; else at the last token."""
    last = min(begin + N_MAX, len(kinds) - 1)
    first = min(begin + N_MIN, last)
    for kind in _KINDS:
        found = np.flatnonzero(kinds[first : last + 1] >= kind)
        if len(found):  # the first end of a sentence, or else the longest passage
            return first + int(found[0 if kind == _SENTENCE else -1])
    return last


def begin_after(kinds: np.ndarray, begin: int, end: int) -> int:
    """Where the passage after the one of tokens `begin` to `end` begins: the first such place that shares at most N_SHARED tokens."""
    first = max(end - N_SHARED, begin + 1)
    for kind in _KINDS:
        found = np.flatnonzero(kinds[first : end + 1] >= kind)
        if len(found) and first + found[0] < end:
            return first + int(found[0])
    return end
