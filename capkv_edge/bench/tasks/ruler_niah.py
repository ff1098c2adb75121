"""Needles in a haystack: sentences that give a key its value, and questions for the values of some keys (RULER, arXiv 2404.06654)."""

import uuid

from .haystacks import Haystack
from .questions import Draft, Item, Text
from .words import pairs

N_PREDICT = 128
_NOUNS = {"numbers": "magic number", "uuids": "magic code"}
_MIN_NEEDLE = 8  # tokens; a needle takes more


def numbers(rng, n: int) -> list:
    """n different numbers of seven digits, as text."""
    out = {}
    while len(out) < n:
        out.update(dict.fromkeys(rng.integers(10**6, 10**7, n - len(out)).tolist()))
    return [str(number) for number in out]


def uuids(rng, n: int) -> list:
    """n random UUIDs of version 4, as text."""
    return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)]


_DRAW = {"words": pairs, "numbers": numbers, "uuids": uuids}


def niah(draft: Draft, *, keys="words", values="numbers", n_keys=1, n_values=1, n_asked=1, in_needles=False) -> Text:
    """Each question has n_keys keys of n_values values each, and asks for the values of the first n_asked keys.

    Keys are "words" or "uuids", values "numbers" or "uuids"; in_needles: the haystack is made of needles as well.
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
