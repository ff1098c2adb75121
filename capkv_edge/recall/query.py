"""What a turn asks an index for: its rare words, each with a weight. No model decides, so the same turn always asks for the same."""

import math
import re
from dataclasses import dataclass

from .index import Index

#: terms of a query at most, so that a pasted text costs no more than a long question
N_TERMS = 32

# a word, or words that signs without spaces join, as in "amber-otter", "a.b.c" and "don't"
_WORD = re.compile(r"[^\W_]+(?:[-_.:/'’@][^\W_]+)*|_+[^\W_]\w*")
_PART = re.compile(r"[^\W_]+")
# scripts without spaces: Thai to Burmese, Khmer, kana, Han
_RUN = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
# names as programs have them: digits, underscores, or capitals that are not only at the beginning
_NAME = re.compile(r"\w*(?:\d|_\w|[a-z][A-Z])\w*|[A-Z]{3,}")
_N_NAME = 3  # letters of a name that tells something
_N_PART = 3  # letters of an entry in the table of parts

#: a word is common where a larger share of the passages has it, and more than so many
_COMMON, _N_COMMON = 0.05, 8
#: shares of a vocabulary: words with a token before the first say nothing, those behind the second are as rare as a word can be
_PLAIN, _RARE = 0.008, 0.25


@dataclass(frozen=True)
class Term:
    """A word, or words that stand together, in a table of the index."""

    text: str
    table: str = "words"


def is_name(text: str) -> bool:
    """Whether a word looks like a name in a program: "n_ctx", "KvCache", "x86"."""
    return _NAME.fullmatch(text) is not None


def names_in(text: str) -> list:
    """The words of a text that look like names in a program, or long numbers, each once, in its order."""
    return list(dict.fromkeys(word for word in re.findall(r"\w+", text) if is_name(word) and len(word) >= _N_NAME))


def terms_of(text: str) -> list:
    """The Terms of a text, each once, in its order."""
    out = {}
    for word in _WORD.findall(text):
        runs = _RUN.findall(word)
        if runs:  # three letters at a time, since nothing tells where a word ends
            for run in runs:
                out |= {("parts", run[i : i + _N_PART]): None for i in range(len(run) - _N_PART + 1)}
            continue
        parts = _PART.findall(word)
        for one in [word] if len(parts) == 1 else [word, *parts]:
            out.setdefault(("words", one.lower()), one)
    return [Term(given or text, table) for (table, text), given in out.items()]


@dataclass(frozen=True)
class Found:
    """What a query found. Weights are in nats: what a word tells, by the share of passages that have it."""

    weight: float  #: of all terms of the query
    passages: dict  #: number of a passage -> weight of the terms that it holds
    terms: tuple  #: (weight, text, numbers of the passages that have it) of each term that is neither common nor missing

    def texts_in(self, number: int) -> list:
        """The terms of the query that a passage has, but for those that weigh less than half of the heaviest."""
        held = [(weight, text) for weight, text, numbers in self.terms if number in numbers]
        return [text for weight, text in held if 2 * weight >= max(held)[0]]


class Weigher:
    """Weighs terms.

    Args:
        tokenize: a function from text to token ids. A vocabulary is made from the frequent to the rare, so the id of a word's token
            tells how common the word is in general; a word of several tokens is rare.
        n_vocab: number of tokens in the vocabulary.
    """

    def __init__(self, tokenize, n_vocab: int):
        self._tokenize, self._vocab_size = tokenize, n_vocab

    def rarity(self, term: Term) -> float:
        """0 for a word that says nothing, to 1; 2 for a name or a number of some length, which is seldom there by chance."""
        if is_name(term.text) and len(term.text) >= _N_NAME:
            return 2.0
        tokens = self._tokenize(" " + term.text.lower())
        if len(tokens) != 1 or term.table != "words":
            return 1.0
        share = max(tokens[0], 1) / self._vocab_size
        return min(1.0, max(0.0, math.log(share / _PLAIN) / math.log(_RARE / _PLAIN)))

    def find(self, index: Index, text: str) -> Found:
        """The passages that hold a rare term of the text. A term that no passage has counts for the weight of the query."""
        rare = {term: self.rarity(term) for term in terms_of(text)}
        terms = sorted((term for term in rare if rare[term]), key=lambda term: -rare[term])[:N_TERMS]
        n_max = max(_N_COMMON, int(_COMMON * index.n))
        total, passages, known = 0.0, {}, []
        for term in terms:
            table = term.table
            found = index.holding(table, term.text, n_max + 1) if table in index.tables else []
            if not found and is_name(term.text) and "parts" in index.tables:
                found = index.holding("parts", term.text, n_max + 1)
            if len(found) > n_max:
                continue
            weight = rare[term] * math.log((index.n + 1) / (len(found) + 0.5))
            total += weight
            if found:
                known.append((weight, term.text, frozenset(found)))
            for number in found:
                passages[number] = passages.get(number, 0.0) + weight
        return Found(total, passages, tuple(known))
