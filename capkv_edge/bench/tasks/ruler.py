"""RULER's synthetic tasks (arXiv 2404.06654): needles, variables, and counting words. ruler_qa.py has its questions about documents.

Templates, answer prefixes, numbers of needles and tokens of an answer are those of github.com/NVIDIA/RULER, word for
word, since scores are comparable only then. Departures:

1. Words that keys and lists are made of are those in words.py.
2. Each text has its own stretch of the haystack; RULER's all begin with the first essay.
3. A depth is a share of the tokens of the text, in RULER of its sentences. A needle that is asked for alone may have its depth given.
4. The answer prefix opens the assistant's turn, as RULER's does, and the template around it is the model's own.
"""

import string
from math import pi

import numpy as np

from .haystacks import NOISE, Haystack
from .questions import Draft, Item, Text
from .words import ADJECTIVES, N_NUMBERS, N_UUIDS, NOUNS, VERBS, letters, numbers, pairs, uuids

# --- needles in a haystack: sentences that give keys their values ---

N_PREDICT = 128  # tokens of an answer
_NEEDLE = "One of the special magic {noun} for {key} is: {value}."
_HEAD = (
    "{some} special magic {noun} {are} hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {noun} afterwards.\n"
)
_QUESTION = "What {are_all} the special magic {noun} for {query} mentioned in the provided text?"
_PREFIX = " The special magic {noun} for {query} mentioned in the provided text {are}"
_ONE = dict(some="A", are="is", are_all="is")
_SEVERAL = dict(some="Some", are="are", are_all="are all")

_MIN_NEEDLE = 12  # a needle takes more tokens than this
_DRAW = {"words": pairs, "numbers": numbers, "uuids": uuids}
_N_VALUES = {"numbers": N_NUMBERS, "uuids": N_UUIDS}
_DEPTHS = np.round(np.linspace(0, 100, 40)) / 100  # where needles may stand in a text that is not made of lines


def niah(draft: Draft, *, keys="words", values="numbers", n_keys=1, n_values=1, n_asked=1, in_needles=False) -> Text:
    """n_keys keys with n_values values each; a question asks for the values of n_asked of them.

    Keys are "words" or "uuids", values "numbers" or "uuids". in_needles: the haystack is made of needles too.
    """
    rng = draft.rng()
    if in_needles:  # all needles are of one form, so any of them can be asked for
        n_keys = draft.share * n_asked
    n_filler = draft.length // _MIN_NEEDLE if in_needles else 0
    all_keys = _DRAW[keys](rng, n_keys + n_filler)
    all_values = _DRAW[values](rng, n_keys * n_values + n_filler)
    sentences = [
        _NEEDLE.format(noun=values, key=key, value=value)
        for key, value in zip([key for key in all_keys[:n_keys] for _ in range(n_values)] + all_keys[n_keys:], all_values)
    ]
    own = sentences[: n_keys * n_values]
    is_lines = in_needles or draft.haystack.name == "noise"
    depths = rng.random(len(own)).round(4) if is_lines else rng.permutation(_DEPTHS)[: len(own)]

    order = rng.permutation(n_keys).tolist()
    is_one = n_asked * n_values == 1
    words, noun = (_ONE, values.removesuffix("s")) if is_one else (_SEVERAL, values)
    items, evidence = [], []
    for i in range(draft.share):
        chosen = order[i * n_asked : (i + 1) * n_asked]
        # values of a key in the order of the text
        found = [k * n_values + j for k in chosen for j in np.argsort(depths[k * n_values :][:n_values]).tolist()]
        if is_one and draft.depths:
            depths[found[0]] = draft.depth(i)
        names = [all_keys[k] for k in chosen]
        query = ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]
        question, prefix = (text.format(noun=noun, query=query, **words) for text in (_QUESTION, _PREFIX))
        depth = float(depths[found[0]]) if is_one else None
        expected = tuple(all_values[k] for k in found)
        items.append(Item(question, expected, N_PREDICT, prefix, depth, n_choices=_N_VALUES[values]))
        evidence += [own[k] for k in found]

    haystack = Haystack("needles", tuple(f"{text}\n" for text in sentences[len(own) :]), whole=True) if in_needles else None
    head = _HEAD.format(noun=noun, **words)
    needles = list(zip(depths.tolist(), own))
    return draft.hide(head, needles, tuple(items), haystack=haystack, evidence=tuple(evidence))


# --- following variables ---

N_HOPS = 4
_N_EXAMPLE = 500  # tokens of the example before the text, at most
_VT_HEAD = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
_VT_QUESTION = "Question: Find all variables that are assigned the value {value} in the text above."
_VT_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {n} variables are assigned the value {value}, they are: "
)


def variable_tracking(draft: Draft) -> Text:
    """One variable gets a value, and N_HOPS times the next one gets the variable before it. A solved example comes first."""
    rng = draft.rng()
    example = _vt_example(rng, draft.tokens)
    lines, names, value = _chain(rng, 5)
    if draft.haystack.name != "noise":  # sentences in prose
        lines = [line.strip() + "." for line in lines]
    needles = list(zip(sorted(rng.random(len(lines)).tolist()), lines))
    asked = (_VT_QUESTION.format(value=value), names, 30, _VT_PREFIX.format(n=len(names), value=value))
    item = Item(*asked, marks=("",) * len(names), n_choices=26**5)
    return draft.hide(f"{example}\n{_VT_HEAD}", needles, (item,), evidence=tuple(line.strip() for line in lines))


def _chain(rng, n_letters: int) -> tuple:
    """(lines of a chain, with the space behind all but the first that RULER has; its variables; its value)."""
    names = letters(rng, N_HOPS + 1, n_letters, string.ascii_uppercase)
    value = int(rng.integers(10000, 99999))
    lines = [f"VAR {names[0]} = {value}", *(f"VAR {name} = VAR {before} " for before, name in zip(names, names[1:]))]
    return lines, tuple(names), value


def _vt_example(rng, tokens) -> str:
    lines, names, value = _chain(rng, 3)
    places = sorted(rng.random(len(lines)).tolist())
    n_noise, best = len(lines), None
    while best is None or tokens(best) <= _N_EXAMPLE:
        found, text = best, [NOISE] * n_noise
        for i, (place, line) in enumerate(zip(places, lines)):
            text.insert(int(place * n_noise) + i, line + "\n")
        question = _VT_QUESTION.format(value=value) + _VT_PREFIX.format(n=len(names), value=value)
        best, n_noise = f"{_VT_HEAD}{''.join(text)}{question} {' '.join(names)}\n", n_noise + 1
    return found or best


# --- common words ---

N_COMMON = 10  # words that the task asks for
_MIN_ENTRY = 5  # a number and a pair of words take at least so many tokens
_CWE_HEAD = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)
_CWE_QUESTION = "Question: What are the 10 most common words in the above list?"
_CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"


def common_words(draft: Draft) -> Text:
    """A numbered list in which N_COMMON words occur 30 times and the others 3 times; below 4096 tokens 6 times and once.

    A solved example of 40 or 20 words comes first."""
    is_long = draft.length >= 4096
    n_often, n_seldom = (30, 3) if is_long else (6, 1)
    rng = draft.rng()
    order = int(rng.integers(2**31))
    plain = [*ADJECTIVES, *NOUNS, *VERBS]
    shown = [plain[i] for i in rng.permutation(len(plain))[: 40 if is_long else 20].tolist()]
    example = _listed(shown[:N_COMMON], *((10, 3) if is_long else (3, 1)), shown[N_COMMON:], order)
    answer = _numbered(shown[:N_COMMON])
    head = f"{_CWE_HEAD}{example}\n{_CWE_QUESTION}{_CWE_PREFIX} {answer}\n{_CWE_HEAD}"

    def build(words: list, n: int) -> Text:
        common = tuple(words[:N_COMMON])
        listed = _listed(list(common), n_often, n_seldom, words[N_COMMON:][:n], order)
        marks = tuple(f" {i}." for i in range(1, N_COMMON + 1))
        return Text(head + listed + "\n", (Item(_CWE_QUESTION, common, 120, _CWE_PREFIX, marks=marks),))

    words = [plain[i] for i in rng.permutation(len(plain)).tolist()]
    if draft.size(build(words, len(words))) < draft.length:  # too few words for the length
        words = pairs(rng, draft.length // (_MIN_ENTRY * n_seldom) + N_COMMON)
    return draft.fit(lambda n: build(words, n), len(words) - N_COMMON)


def _listed(often: list, n_often: int, n_seldom: int, seldom: list, order: int) -> str:
    return _numbered(_shuffled(often * n_often + seldom * n_seldom, order))


def _numbered(words: list) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


# --- frequent words ---

N_FREQUENT = 3  # words that the task asks for
ALPHA = 2.0  # exponent of the zeta distribution
_ZETA = pi**2 / 6  # the zeta function at ALPHA
_CODED_LEN, _TOKENS_PER_CODED = 6, 50  # letters of a coded word; tokens of the text for each different word
_FWE_HEAD = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. "
)
_FWE_QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
_FWE_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"


def frequent_words(draft: Draft) -> Text:
    """Coded words whose number falls with their rank, by a zeta distribution. The first is written as dots; the next are asked for."""
    rng = draft.rng()
    n_words = max(draft.length // _TOKENS_PER_CODED, 2 * N_FREQUENT)
    words = ["...", *letters(rng, n_words, _CODED_LEN, string.ascii_lowercase)]
    order = int(rng.integers(2**31))
    n_least = 100  # with so many words in all, the words asked for are more frequent than the next one
    item = Item(_FWE_QUESTION, tuple(words[1 : N_FREQUENT + 1]), 50, _FWE_PREFIX, n_choices=26**_CODED_LEN)

    def build(n: int) -> Text:
        out = []
        for rank, word in enumerate(words, 1):
            out += [word] * int((n + n_least) * rank**-ALPHA / _ZETA)
        return Text(_FWE_HEAD + " ".join(_shuffled(out, order)) + "\n", (item,))

    return draft.fit(build)


def _shuffled(words: list, seed: int) -> list:
    return [words[i] for i in np.random.default_rng(seed).permutation(len(words)).tolist()]
