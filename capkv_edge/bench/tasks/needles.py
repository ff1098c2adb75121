"""Needles of one form in a text, and questions about each: what is found depends on how many a budget has to hold."""

from .questions import Draft, Item, Text
from .words import N_NUMBERS, numbers, pairs

_HEAD = "Some magic numbers are hidden in the text below. Remember them, since you will be asked for them after the text.\n\n"


def needles(draft: Draft, *, n: int) -> Text:
    """n keys with a number each, at depths that are spread evenly over texts and within each; `share` of them are asked for."""
    rng = draft.rng()
    keys, values = pairs(rng, n), numbers(rng, n)
    depths = [draft.depth(i, n) for i in range(n)]
    sentences = [f"The magic number for {key} is {value}." for key, value in zip(keys, values)]
    items = []
    for i in sorted(rng.permutation(n)[: draft.share].tolist()):
        question = f"\nWhat is the magic number for {keys[i]} in the text above?"
        prefix = f"You asked for {keys[i]}: its number is"  # not the words of the needle, after which any model would copy
        items.append(Item(question, (values[i],), 16, prefix, depths[i], n_choices=N_NUMBERS))
    return draft.hide(_HEAD, list(zip(depths, sentences)), tuple(items), evidence=tuple(sentences))
