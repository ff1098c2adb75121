"""RULER's tasks beside the needles (arXiv 2404.06654): following variables, and counting words."""

import string

import numpy as np

from .questions import Draft, Item, Text
from .words import ADJECTIVES, NOUNS, VERBS, pairs

N_HOPS = 4
N_COMMON = 10  # words that cwe asks for
N_FREQUENT = 3  # words that fwe asks for
ALPHA = 2.0  # exponent of the zeta distribution of fwe
_CODED_LEN, _TOKENS_PER_CODED = 6, 50  # letters of a coded word; tokens of the text per different word


# --- following variables ---

_VT_HEAD = """Statements that give values to variables are hidden in a text. Follow them through the text, since you will be asked \
which variables hold a value.

Example text: The grass is green. VAR KLM = 10203. The sky is blue. VAR QRS = VAR KLM. The sun is yellow. VAR TUV = 40506.
Example question: Which variables hold the value 10203?
Example answer: The 2 variables that hold the value 10203 are: VAR KLM, VAR QRS

The text:
"""


def variable_tracking(draft: Draft) -> Text:
    """A chain per question: a variable gets a value, the next one the variable before it, N_HOPS times; all hold the value."""
    rng = draft.rng()
    start = rng.random()
    n = N_HOPS + 1
    names = _letters(rng, draft.share * n, 5, string.ascii_uppercase)
    values = rng.permutation(range(10000, 100000))[: draft.share].tolist()
    needles, items = [], []
    for i, value in enumerate(values):
        chain = names[i * n : (i + 1) * n]
        sources = [str(value), *(f"VAR {name}" for name in chain)]
        depths = sorted(rng.random(n).tolist())
        needles += [(depth, f"VAR {name} = {source}.") for depth, name, source in zip(depths, chain, sources)]
        question = f"\nQuestion: Which variables hold the value {value}? There are {n} of them."
        items.append(Item(question, tuple(chain), 30, f"Answer: The {n} variables that hold the value {value} are: VAR"))
    # a variable that is read has to be assigned before: needles at one place stay in the order of the list
    needles.sort(key=lambda needle: needle[0])
    return draft.hide(_VT_HEAD, needles, tuple(items), start)


# --- common words ---

_MIN_ENTRY = 5  # tokens that a number and a pair of words take, at least


def common_words(draft: Draft) -> Text:
    """A numbered list where N_COMMON words occur often and the others seldom: 30 and 3 times, 6 and 1 below 4096 tokens."""
    n_often, n_seldom = (30, 3) if draft.length >= 4096 else (6, 1)
    rng = draft.rng()
    order = int(rng.integers(2**31))
    plain = [*ADJECTIVES, *NOUNS, *VERBS]
    example = ["pear", "sock", "lamp", "sock", "pear", "brick", "pear", "sock"]  # none of words.py
    head = (
        "Words are listed below with their numbers. Some of them occur more often than others. Remember those that occur most often.\n\n"
        f"Example list: {_listed(example)}\nExample question: Which 2 words occur most often in the list?\n"
        "Example answer: The 2 words that occur most often are: 1. pear 2. sock\n\nThe list:\n"
    )

    def build(words: list, n: int) -> Text:
        common = tuple(words[:N_COMMON])
        listed = _shuffled(list(common) * n_often + words[N_COMMON:][:n] * n_seldom, order)
        question = f"\nQuestion: Which {N_COMMON} words occur most often in the list?"
        item = Item(question, common, 120, f"Answer: The {N_COMMON} words that occur most often are:")
        return Text(head + _listed(listed) + "\n", (item,))

    words = [plain[i] for i in rng.permutation(len(plain)).tolist()]
    if draft.size(build(words, len(words))) < draft.length:  # there are not enough of them
        words = pairs(rng, draft.length // (_MIN_ENTRY * n_seldom) + N_COMMON)
    return draft.fit(lambda n: build(words, n), len(words) - N_COMMON)


def _listed(words: list) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


# --- frequent words ---


def frequent_words(draft: Draft) -> Text:
    """Coded words whose number falls with their rank, by a zeta distribution; the first one is written as dots, the next asked."""
    rng = draft.rng()
    n_words = max(draft.length // _TOKENS_PER_CODED, 2 * N_FREQUENT)
    words = ["...", *_letters(rng, n_words, _CODED_LEN, string.ascii_lowercase)]
    weights = [rank**-ALPHA for rank in range(1, len(words) + 1)]
    order = int(rng.integers(2**31))
    n_least = 120  # words in all that tell the ranks asked for from the one behind them
    head = (
        "The text below is in code. Count how often each coded word occurs, since you will be asked for the most frequent ones. "
        "Leave out the dots.\n\n"
    )
    item = Item(
        f"\nQuestion: Leave out the dots. Which {N_FREQUENT} coded words occur most often in the text above?",
        tuple(words[1 : N_FREQUENT + 1]),
        50,
        f"Answer: The {N_FREQUENT} coded words that occur most often are:",
    )

    def build(n: int) -> Text:
        total = n + n_least
        out = []
        for word, weight in zip(words, weights):
            out += [word] * round(total * weight / sum(weights))
        return Text(head + " ".join(_shuffled(out, order)) + "\n", (item,))

    return draft.fit(build)


def _letters(rng, n: int, length: int, alphabet: str) -> list:
    out = {}
    while len(out) < n:
        out["".join(alphabet[i] for i in rng.integers(0, len(alphabet), length).tolist())] = None
    return list(out)


def _shuffled(words: list, seed: int) -> list:
    return [words[i] for i in np.random.default_rng(seed).permutation(len(words)).tolist()]
