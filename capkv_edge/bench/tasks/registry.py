"""The table of retrieval tasks. A new task is a function from a Draft to a Text, and a record here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import haystacks, ruler_qa
from .dialogues import FACTS, instruction, recall
from .needles import needles
from .questions import Draft, Text
from .ruler import common_words, frequent_words, niah, variable_tracking
from .small_talk import QUESTIONS


@dataclass(frozen=True)
class Task:
    name: str
    make: Callable
    haystack: str  #: the text around the needles, unless another one is chosen; with `form` the option that has the file
    what: str  #: what is asked, for the documentation
    own: bool = False  #: the task makes its own text, so the haystack cannot be chosen
    form: str | None = None  #: of the file that it reads, in ruler_qa.FORMS
    share: int = 1  #: questions about one text, unless another number is chosen
    max_share: int = 1  #: questions that one text can have
    n_expected: int = 1  #: strings that its answer has to have; 1 where any of several will do
    turns: bool = False  #: length counts turns of a conversation, not tokens
    has_evidence: bool = True  #: its texts say which passages have the answers
    wording: int = 1  #: add one whenever its words change, since rows with other words are not the same measurement

    def share_of(self, share: int | None = None) -> int:
        """The questions about one text where `share` are wanted; None: the task's own number."""
        return min(share or self.share, self.max_share)


_RULER = dict(wording=2)
_DIALOGUE = dict(own=True, turns=True, share=5)

#: RULER's 13 tasks, with its own arguments
_RULERS = (
    Task("niah_single_1", niah, "noise", "the number of a key", **_RULER),
    Task("niah_single_2", niah, "essays", "the number of a key", **_RULER),
    Task("niah_single_3", partial(niah, values="uuids"), "essays", "the UUID of a key", **_RULER),
    Task("niah_multikey_1", partial(niah, n_keys=4), "essays", "the number of one key among four", max_share=4, **_RULER),
    Task(
        "niah_multikey_2",
        partial(niah, in_needles=True),
        "needles",
        "the number of one key; all other text is needles",
        own=True,
        max_share=10,
        **_RULER,
    ),
    Task(
        "niah_multikey_3",
        partial(niah, keys="uuids", values="uuids", in_needles=True),
        "needles",
        "the UUID of one key that is a UUID; all other text is needles",
        own=True,
        max_share=10,
        **_RULER,
    ),
    Task("niah_multivalue", partial(niah, n_values=4), "essays", "the four numbers of a key", n_expected=4, **_RULER),
    Task("niah_multiquery", partial(niah, n_keys=4, n_asked=4), "essays", "the numbers of four keys", n_expected=4, **_RULER),
    Task("vt", variable_tracking, "noise", "all variables that hold a value, directly or through others", n_expected=5, **_RULER),
    Task(
        "cwe",
        common_words,
        "words",
        "the ten words of a list that occur most often",
        own=True,
        has_evidence=False,
        n_expected=10,
        **_RULER,
    ),
    Task("fwe", frequent_words, "words", "the three most frequent coded words", own=True, has_evidence=False, n_expected=3, **_RULER),
    Task("qa_1", ruler_qa.qa, "--squad", "a question about one paragraph among others", form="squad"),
    Task("qa_2", ruler_qa.qa, "--hotpotqa", "a question about two paragraphs among others", form="hotpotqa"),
)

_OURS = tuple(
    Task(
        f"needles_{n}",
        partial(needles, n=n),
        "essays",
        "the number of the one key" if n == 1 else f"the number of each of {n} keys, in needles of one form",
        share=n,
        max_share=n,
        wording=2,
    )
    for n in (1, 3, 10)
)

_DIALOGUES = (
    Task("recall", recall, "talk", "facts told in the first turns", max_share=len(FACTS), **_DIALOGUE),
    Task(
        "recall_reworded",
        partial(recall, reworded=True),
        "talk",
        "the same, in other words than the facts were told in",
        max_share=len(FACTS),
        **_DIALOGUE,
    ),
    Task(
        "instruction",
        instruction,
        "talk",
        "replies that keep a rule of the system prompt",
        max_share=len(QUESTIONS),
        **_DIALOGUE,
    ),
    Task(
        "instruction_shown",
        partial(instruction, demonstrated=True),
        "talk",
        "the same; all replies before keep the rule",
        max_share=len(QUESTIONS),
        **_DIALOGUE,
    ),
)

TASKS = {task.name: task for task in (*_RULERS, *_OURS, *_DIALOGUES)}

RULER, NEEDLES, DIALOGUES = (tuple(task.name for task in group) for group in (_RULERS, _OURS, _DIALOGUES))

#: names that stand for several tasks
GROUPS = {"ruler": RULER, "needles": NEEDLES, "dialogues": DIALOGUES}


def find(name: str) -> Task:
    """A task by name. Raises ValueError where there is none; the message lists the names."""
    if name not in TASKS:
        raise ValueError(f"task = {name}: allowed are {', '.join(TASKS)}")
    return TASKS[name]


def expand(names: list, files) -> tuple:
    """(tasks, tasks left out): groups of the names are replaced by their tasks, but for those whose file is not in `files`.

    A task that has its own place among the names is not left out, so that it can be refused."""
    every = dict.fromkeys(task for name in names for task in GROUPS.get(name, (name,)))
    out = [task for task in every if task not in names and find(task).form and find(task).form not in files]
    return [task for task in every if task not in out], out


def load(task: Task, haystack: str | None):
    """The haystack of a task by name, or the file of questions at a path; None where the task makes its own text.

    Raises:
        OSError: there is no such haystack or file.
        ValueError: a file in another form.
    """
    if task.own:
        return None
    return ruler_qa.load(task.form, haystack) if task.form else haystacks.load(haystack)


def make_text(name: str, index: int, length: int, tokens, size, *, haystack=None, seed=0, share=1, depths=()) -> Text:
    """Text number `index` of a task; arguments as Draft's, haystack as load() takes it, None for the task's.

    Raises:
        ValueError: an argument out of range, or a length that the task does not fit in.
        OSError: there is no such haystack or file.
    """
    task = find(name)
    for option, value, least in (("length", length, 1), ("index", index, 0), ("seed", seed, 0), ("share", share, 1)):
        if value < least:
            raise ValueError(f"{option} = {value}: allowed is {least} or more")
    if not all(0 <= depth <= 1 for depth in depths):
        raise ValueError(f"depths = {', '.join(map(str, depths))}: allowed is 0 to 1")
    if share > task.max_share:
        raise ValueError(f"share = {share}: allowed for the task {name} is 1 to {task.max_share}")
    if task.form and not haystack:
        raise ValueError(f"task = {name}: it needs {task.haystack} FILE")
    pile = load(task, haystack or task.haystack)
    return task.make(Draft(name, pile, length, index, tokens, size, seed, share, tuple(depths)))
