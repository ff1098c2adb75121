"""The table of retrieval tasks: a new task is a function from a Draft to a Text, and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import haystacks
from .dialogues import FACTS, instruction, recall
from .questions import Draft, Text
from .ruler_niah import niah
from .ruler_other import common_words, frequent_words, variable_tracking
from .small_talk import QUESTIONS


@dataclass(frozen=True)
class Task:
    name: str
    make: Callable
    haystack: str  #: what it is made from unless told otherwise
    own: bool = False  #: the text is of the task's own making: the haystack cannot be chosen
    max_share: int | None = None  #: questions that a text can have; None: any number
    turns: bool = False  #: length counts turns of a conversation, not tokens


#: one more whenever the words of a task change: rows of other words are not the same measurement
WORDING = 1

TASKS = {
    task.name: task
    for task in (
        Task("niah_single_1", niah, "noise"),
        Task("niah_single_2", niah, "essays"),
        Task("niah_single_3", partial(niah, values="uuids"), "essays"),
        Task("niah_multikey_1", partial(niah, n_keys=4), "essays"),
        Task("niah_multikey_2", partial(niah, in_needles=True), "needles", own=True),
        Task("niah_multikey_3", partial(niah, keys="uuids", values="uuids", in_needles=True), "needles", own=True),
        Task("niah_multivalue", partial(niah, n_values=4), "essays"),
        Task("niah_multiquery", partial(niah, n_keys=4, n_asked=4), "essays"),
        Task("vt", variable_tracking, "noise"),
        Task("cwe", common_words, "words", own=True, max_share=1),
        Task("fwe", frequent_words, "words", own=True, max_share=1),
        Task("recall", recall, "talk", own=True, turns=True, max_share=len(FACTS)),
        Task("instruction", instruction, "talk", own=True, turns=True, max_share=len(QUESTIONS)),
        Task(
            "instruction_shown", partial(instruction, demonstrated=True), "talk", own=True, turns=True, max_share=len(QUESTIONS)
        ),
    )
}

RULER = tuple(task.name for task in TASKS.values() if not task.turns)
DIALOGUES = tuple(task.name for task in TASKS.values() if task.turns)


def find(name: str) -> Task:
    """A task by name. Raises ValueError that lists the names."""
    if name not in TASKS:
        raise ValueError(f"task = {name}: allowed are {', '.join(TASKS)}")
    return TASKS[name]


def make_text(name: str, index: int, length: int, tokens, size, *, haystack=None, seed=0, share=1, depths=()) -> Text:
    """Text number `index` of a task; arguments as Draft's, haystack a name as haystacks.load() takes it, None for the task's.

    Raises:
        ValueError: an argument out of range, or a length that the task does not fit in.
        FileNotFoundError: a haystack that is not there.
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
