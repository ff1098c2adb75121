"""The table of retrieval tasks. A new task is a function from a Draft to a Text, and a record here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import haystacks
from .dialogues import FACTS, instruction, recall
from .questions import Draft, Text
from .ruler import common_words, frequent_words, niah, variable_tracking
from .small_talk import QUESTIONS


@dataclass(frozen=True)
class Task:
    name: str
    make: Callable
    haystack: str  #: the text around the needles, unless another one is chosen
    what: str  #: what is asked, for the documentation
    own: bool = False  #: the task makes its own text, so the haystack cannot be chosen
    max_share: int | None = None  #: questions that one text can have; None: any number
    turns: bool = False  #: length counts turns of a conversation, not tokens


#: add one whenever the words of a task change, since rows with other words are not the same measurement
WORDING = 1

TASKS = {
    task.name: task
    for task in (
        Task("niah_single_1", niah, "noise", "the number of a key"),
        Task("niah_single_2", niah, "essays", "the number of a key"),
        Task("niah_single_3", partial(niah, values="uuids"), "essays", "the UUID of a key"),
        Task("niah_multikey_1", partial(niah, n_keys=4), "essays", "the number of one key among four"),
        Task("niah_multikey_2", partial(niah, in_needles=True), "needles", "the number of one key; all other text is needles", own=True),
        Task(
            "niah_multikey_3",
            partial(niah, keys="uuids", values="uuids", in_needles=True),
            "needles",
            "the UUID of one key that is a UUID; all other text is needles",
            own=True,
        ),
        Task("niah_multivalue", partial(niah, n_values=4), "essays", "the four numbers of a key"),
        Task("niah_multiquery", partial(niah, n_keys=4, n_asked=4), "essays", "the numbers of four keys"),
        Task("vt", variable_tracking, "noise", "all variables that hold a value, directly or through others"),
        Task("cwe", common_words, "words", "the ten words of a list that occur most often", own=True, max_share=1),
        Task("fwe", frequent_words, "words", "the three most frequent coded words", own=True, max_share=1),
        Task("recall", recall, "talk", "facts told in the first turns", own=True, turns=True, max_share=len(FACTS)),
        Task(
            "recall_reworded",
            partial(recall, reworded=True),
            "talk",
            "the same, in other words than the facts were told in",
            own=True,
            turns=True,
            max_share=len(FACTS),
        ),
        Task(
            "instruction",
            instruction,
            "talk",
            "replies that keep a rule of the system prompt",
            own=True,
            turns=True,
            max_share=len(QUESTIONS),
        ),
        Task(
            "instruction_shown",
            partial(instruction, demonstrated=True),
            "talk",
            "the same; all replies before keep the rule",
            own=True,
            turns=True,
            max_share=len(QUESTIONS),
        ),
    )
}

RULER = tuple(task.name for task in TASKS.values() if not task.turns)
DIALOGUES = tuple(task.name for task in TASKS.values() if task.turns)


def find(name: str) -> Task:
    """A task by name. Raises ValueError where there is none; the message lists the names."""
    if name not in TASKS:
        raise ValueError(f"task = {name}: allowed are {', '.join(TASKS)}")
    return TASKS[name]


def make_text(name: str, index: int, length: int, tokens, size, *, haystack=None, seed=0, share=1, depths=()) -> Text:
    """Text number `index` of a task; arguments as Draft's, haystack a name as haystacks.load() takes it, None for the task's.

    Raises:
        ValueError: an argument out of range, or a length that the task does not fit in.
        FileNotFoundError: there is no such haystack.
    """
    task = find(name)
    for option, value, least in (("length", length, 1), ("index", index, 0), ("seed", seed, 0), ("share", share, 1)):
        if value < least:
            raise ValueError(f"{option} = {value}: allowed is {least} or more")
    if not all(0 <= depth <= 1 for depth in depths):
        raise ValueError(f"depths = {', '.join(map(str, depths))}: allowed is 0 to 1")
    if share > (task.max_share or share):
        raise ValueError(f"share = {share}: allowed for the task {name} is 1 to {task.max_share}")
    pile = None if task.own else haystacks.load(haystack or task.haystack)
    return task.make(Draft(name, pile, length, index, tokens, size, seed, share, tuple(depths)))
