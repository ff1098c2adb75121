"""RULER's tasks (arXiv 2404.06654), written anew from its description: needles, variables, and counting words."""

import string

import numpy as np

from .haystacks import Haystack
from .questions import Draft, Item, Text
from .words import ADJECTIVES, NOUNS, VERBS, letters, numbers, pairs, uuids

# --- needles in a haystack: sentences that give keys their values ---

N_PREDICT = 128  # tokens of an answer
_NOUNS = {"numbers": "magic number", "uuids": "magic code"}
_MIN_NEEDLE = 8  # a needle takes more tokens than this
_DRAW = {"words": pairs, "numbers": numbers, "uuids": uuids}


def niah(draft: Draft, *, keys="words", values="numbers", n_keys=1, n_values=1, n_asked=1, in_needles=False) -> Text:
    """Each question has n_keys keys with n_values values each, and asks for the values of the first n_asked keys.

    Keys are "words" or "uuids", values "numbers" or "uuids". in_needles: the haystack is made of needles too.
    """
    rng, noun = draft.rng(), _NOUNS[values]
    start = rng.random()
    n_filler = draft.length // _MIN_NEEDLE if in_needles else 0
    n_own = draft.share * n_keys
    all_keys = _DRAW[keys](rng, n_own + n_filler)
    all_values = _DRAW[values](rng, n_own * n_values + n_filler)
    sentence = f"One of the {noun}s for {{}} is {{}}." if n_values > 1 else f"The {noun} for {{}} is {{}}."

    needles, items = [], []
    n_found = n_asked * n_values
    for i in range(draft.share):
        depth, own = draft.depth(i), all_keys[i * n_keys : (i + 1) * n_keys]
        own_values = all_values[i * n_keys * n_values : (i + 1) * n_keys * n_values]
        keys_of = [key for key in own for _ in range(n_values)]
        for k, (key, value) in enumerate(zip(keys_of, own_values)):
            where = rng.random() if k >= n_found else (depth + k / n_found) % 1 if k else depth
            needles.append((where, sentence.format(key, value)))
        items.append(_ask(noun, own[:n_asked], own_values[:n_found], n_values, depth if n_found == 1 else None))

    filler = zip(all_keys[n_own:], all_values[n_own * n_values :])
    haystack = Haystack("needles", tuple(sentence.format(*pair) for pair in filler), whole=True) if in_needles else None
    head = f"Some {noun}s are hidden in the text below. Remember them, since you will be asked for them after the text.\n\n"
    return draft.hide(head, needles, tuple(items), 0 if in_needles else start, haystack)


def _ask(noun: str, keys: list, expected: list, n_values: int, depth) -> Item:
    names = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]
    if len(expected) == 1:
        question, prefix = f"What is the {noun} for {names} in the text above?", f"The {noun} for {names} is"
    else:
        every = "all the" if n_values > 1 else "the"
        question = f"What are {every} {noun}s for {names} in the text above?"
        prefix = f"The {noun}s for {names} are"
    return Item("\n" + question, tuple(expected), N_PREDICT, prefix, depth)


# --- following variables ---

N_HOPS = 4
_VT_HEAD = """Statements that give values to variables are hidden in a text. Follow them through the text, since you will be asked \
which variables hold a value.

Example text: The grass is green. VAR KLM = 10203. The sky is blue. VAR QRS = VAR KLM. The sun is yellow. VAR TUV = 40506.
Example question: Which variables hold the value 10203?
Example answer: The 2 variables that hold the value 10203 are: VAR KLM, VAR QRS

The text:
"""


def variable_tracking(draft: Draft) -> Text:
    """A chain per question: one variable gets a value, and N_HOPS times the next one gets the variable before it."""
    rng = draft.rng()
    start = rng.random()
    n = N_HOPS + 1
    names = letters(rng, draft.share * n, 5, string.ascii_uppercase)
    values = rng.permutation(range(10000, 100000))[: draft.share].tolist()
    needles, items = [], []
    for i, value in enumerate(values):
        chain = names[i * n : (i + 1) * n]
        sources = [str(value), *(f"VAR {name}" for name in chain)]
        depths = sorted(rng.random(n).tolist())
        needles += [(depth, f"VAR {name} = {source}.") for depth, name, source in zip(depths, chain, sources)]
        question = f"\nQuestion: Which variables hold the value {value}? There are {n} of them."
        items.append(Item(question, tuple(chain), 30, f"Answer: The {n} variables that hold the value {value} are: VAR"))
    # sorted, since needles at one place stay in the order of the list, and a variable has to be assigned before it is read
    needles.sort(key=lambda needle: needle[0])
    return draft.hide(_VT_HEAD, needles, tuple(items), start)


# --- common words ---

N_COMMON = 10  # words that the task asks for
_MIN_ENTRY = 5  # a number and a pair of words take at least so many tokens


def common_words(draft: Draft) -> Text:
    """A numbered list in which N_COMMON words occur 30 times and the others 3 times; below 4096 tokens 6 times and once."""
    n_often, n_seldom = (30, 3) if draft.length >= 4096 else (6, 1)
    rng = draft.rng()
    order = int(rng.integers(2**31))
    plain = [*ADJECTIVES, *NOUNS, *VERBS]
    example = ["pear", "sock", "lamp", "sock", "pear", "brick", "pear", "sock"]  # none of these is in words.py
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
    if draft.size(build(words, len(words))) < draft.length:  # too few words for the length
        words = pairs(rng, draft.length // (_MIN_ENTRY * n_seldom) + N_COMMON)
    return draft.fit(lambda n: build(words, n), len(words) - N_COMMON)


def _listed(words: list) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


# --- frequent words ---

N_FREQUENT = 3  # words that the task asks for
ALPHA = 2.0  # exponent of the zeta distribution
_CODED_LEN, _TOKENS_PER_CODED = 6, 50  # letters of a coded word; tokens of the text for each different word

def frequent_words(draft: Draft) -> Text:
    """Coded words whose number falls with their rank, by a zeta distribution. The first is written as dots; the next are asked for."""
    rng = draft.rng()
    n_words = max(draft.length // _TOKENS_PER_CODED, 2 * N_FREQUENT)
    words = ["...", *letters(rng, n_words, _CODED_LEN, string.ascii_lowercase)]
    weights = [rank**-ALPHA for rank in range(1, len(words) + 1)]
    order = int(rng.integers(2**31))
    n_least = 120  # with so many words in all, the words asked for are more frequent than the next one
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


def _shuffled(words: list, seed: int) -> list:
    return [words[i] for i in np.random.default_rng(seed).permutation(len(words)).tolist()]
