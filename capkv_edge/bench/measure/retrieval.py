"""Retrieval: what can still be found in a text after most of its entries were evicted.

Each setup reads a text once. Mode "blind": the text is read, the cache is evicted down to its budget, and then each question is
asked alone, from that same state. Mode "aware": the question is read with the text, and the eviction comes before the answer.
Mode "told": as "blind", but the question stands before the text too. Mode "focus": as "blind", but the question's queries take part in each
eviction, where the setup's policy keeps a sample of queries.
"""

import contextlib
import dataclasses
from dataclasses import dataclass, field
from itertools import product
from math import log

import numpy as np

from ..run.provenance import engine_fields, setup_fields
from ..run.rows import key_of
from ..run.setups import Setup
from ..tasks import registry
from ..tasks.questions import Item, Text
from .likelihood import log_likelihoods
from .prompts import Reader
from .recalling import Recalling

MODES = ("blind", "aware", "told", "focus")

_N_LOOK = 8  # tokens generated between two looks at an answer: one that has all that is expected is not continued
_N_PAD = 256  # the context of a dialogue is a multiple of it


@dataclass(frozen=True)
class Condition:
    """What the texts of one comparison share. `length` is in tokens; of a dialogue in turns."""

    task: str
    haystack: str
    length: int
    mode: str
    share: int


@dataclass
class Plan:
    """What to measure.

    Raises:
        ValueError: an option out of range; names the option, the value and what is allowed.
    """

    tasks: list  #: names in registry.TASKS
    setups: list  #: of Setup
    lengths: list = field(default_factory=lambda: [4096])  #: tokens of a text with question and answer
    n_turns: int = 20  #: turns of the dialogues
    modes: list = field(default_factory=lambda: ["blind"])
    n_texts: int = 20
    haystack: str | None = None  #: instead of each task's own
    files: dict = field(default_factory=dict)  #: paths of files of questions, by their form (registry.Task.form)
    share: int | None = 1  #: questions per text, at most those of a task, None: each task's own; 1 but in mode "blind"
    depths: tuple = ()  #: of the needles, in turn from text to text; empty: spread evenly
    seed: int = 1
    min_base: float = 0.0  #: where the full cache's mean score is below it, the other setups are not measured

    def __post_init__(self):
        oracles = [setup.name for setup in self.setups if setup.oracle]
        for name in self.tasks:
            task = registry.find(name)
            if oracles and not task.has_evidence:
                raise ValueError(f"setup = {oracles[0]}: the task {name} has no passages that have its answers")
            if task.form and task.form not in self.files:
                raise ValueError(f"task = {name}: it reads the data set's file: {task.haystack} FILE")
        for mode in self.modes:
            if mode not in MODES:
                raise ValueError(f"mode = {mode}: allowed are {', '.join(MODES)}")
            if mode == "told" and (talks := [name for name in self.tasks if registry.find(name).turns]):
                raise ValueError(f"mode = told: allowed are tasks with a text, not the dialogues of {talks[0]}")
        for name in ("n_texts", "n_turns", "share"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {value}: allowed is 1 or more")
        if not 0 <= self.min_base <= 1:
            raise ValueError(f"min_base = {self.min_base}: allowed is 0 to 1")
        if self.min_base and Setup() not in self.setups:
            self.setups = [Setup(), *self.setups]

    @property
    def cost(self) -> str:
        """How much is to be read, as a line for the user."""
        readings = len(self.setups) * self.n_texts
        n = sum(one.length for one in self.conditions if not registry.find(one.task).turns) * readings
        n_talks = sum(registry.find(one.task).turns for one in self.conditions) * readings
        parts = [f"{n:,} tokens to read at most"] * bool(n) + [f"{n_talks:,} dialogues of {self.n_turns} turns"] * bool(n_talks)
        return f"{len(self.conditions) * readings:,} readings ({self.n_texts} texts by {len(self.setups)} setups): {', '.join(parts)}"

    @property
    def conditions(self) -> list:
        """The Condition of each task, length and mode."""
        out = {}
        for name in self.tasks:
            task = registry.find(name)
            haystack = task.haystack if task.own or not self.haystack else self.haystack
            haystack = str(self.files[task.form]) if task.form else haystack
            for length in [self.n_turns] if task.turns else self.lengths:
                for mode in self.modes:
                    share = task.share_of(self.share) if mode == "blind" else 1
                    out[Condition(name, haystack, length, mode, share)] = None
        return list(out)


def make_text(reader: Reader, plan: Plan, condition: Condition, index: int) -> Text:
    """Text number `index` of a condition."""
    tell = _tell if condition.mode == "told" else lambda text: text
    text = registry.make_text(
        condition.task,
        index,
        condition.length,
        reader.count,
        lambda text: reader.size(tell(text)),
        haystack=condition.haystack,
        seed=plan.seed,
        share=condition.share,
        depths=plan.depths,
    )
    return tell(text)


def _tell(text: Text) -> Text:
    """The text behind its question."""
    return dataclasses.replace(text, prefix=f"{text.items[0].question.strip()}\n\n{text.prefix}")


# --- asking ---


def answer(stream, item: Item) -> str:
    """The greedy answer after what was read. It ends early where no further word can change its score."""
    engine, out = stream.engine, []
    while len(out) < item.n_predict:
        n = min(_N_LOOK, item.n_predict - len(out))
        found = stream.generate(n)
        out += found
        if len(found) < n or len(out) == item.n_predict or item.is_settled(engine.detokenize(out)):
            break
        stream.read(found[-1:])
    return engine.detokenize(out)


def nll_of(stream, opening: list, expected: list, counts=None) -> float:
    """Mean negative log probability of the expected tokens after the opening, in nats.

    It tells nearly right answers from those that are far off, which a score of right or wrong does not.

    counts: which of the tokens count, bool [n]; None: all."""
    found = log_likelihoods(stream, opening + expected[:-1], stream.n_tokens + len(opening) - 1, expected)
    return -float(found[slice(None) if counts is None else np.array(counts)].mean())


def pin(stream, reader: Reader, text: Text) -> None:
    """Pin what the setup says of a text that is yet to be read. Raises ValueError where the budget has no room for it."""
    if stream.setup.pin and (n_system := reader.n_system(text)):
        stream.pin(0, n_system)
    for start, stop in reader.evidence(text) if stream.setup.oracle else ():
        stream.pin(start, stop)


class Reading:
    """A text that a stream reads, to be asked its questions: several times, where only what comes back with them differs."""

    def __init__(self, stream, reader: Reader, text: Text, mode: str):
        self.stream, self.reader, self.text, self._is_aware = stream, reader, text, mode == "aware"
        self._recalling = None
        pin(stream, reader, text)
        if mode == "focus" and stream.can_focus:
            stream.focus(reader.asked(text.items[0]))
        stream.read(reader.prefix(text))
        if not self._is_aware:
            self._evict()

    def _evict(self) -> None:
        self.stream.compress()
        self._memory = self.stream.memory()
        self._mark, self._is_at_mark = self.stream.mark(), True

    def _return(self) -> None:
        if not self._is_at_mark:
            self.stream.back(self._mark)
        self._is_at_mark = False

    def _keep(self, place: tuple) -> None:
        """Of the tokens that are read next, those at indices place[0] to place[1] came back: they stay until the answer is there."""
        begin, end = place
        if begin < end and self.stream.setup.on:
            with contextlib.suppress(ValueError):  # no room: they are evicted as any other text is
                self.stream.pin(self.stream.n_tokens + begin, self.stream.n_tokens + end)

    def _question(self, item: Item, quota: int) -> tuple:
        """Tokens of a question with what comes back, (first, last + 1) of the indices of that, and what the row says of it."""
        question = self.reader.question(item)
        if not quota:
            return question, (0, 0), {}
        if self._recalling is None:
            self._recalling = Recalling(self.stream, self.reader.count)
            self._recalling.add(self.reader.prefix(self.text), self.stream.n_gone)
        found, said = self._recalling.find(item.question, quota)
        tokens = question + self.reader.engine.tokenize(found)
        return tokens, (len(question), len(tokens)), said

    def ask(self, quota: int = 0) -> list:
        """[{depth, question, expected, answer, score, nll, guess}] of the text's questions.

        nll: of the answer that the task expects, None where others are as right. guess: the same for who knows the form of the
        answer alone, None where there are no known choices.

        quota: tokens of the text that may come back with a question, in the end of the user's turn; 0 is no recall.
        """
        stream, reader, out = self.stream, self.reader, []
        for item in self.text.items:
            question, place, said = self._question(item, quota)
            if self._is_aware:
                self._keep(place)
                stream.read(question)
                self._evict()
                place = (0, 0)
            opening = ([] if self._is_aware else question) + reader.opening(self.text, item)
            self._return()
            self._keep(place)
            stream.read(opening)
            reply, nll, guess = answer(stream, item), None, None
            parts = [(token, counts) for part, counts in item.reference for token in reader.engine.tokenize(part)]
            if parts:
                self._return()
                self._keep(place)
                tokens, counts = zip(*parts)
                nll = nll_of(stream, opening, list(tokens), counts)
                guess = item.n_choices and len(item.expected) * log(item.n_choices) / sum(counts)
            asked = dict(depth=item.depth, question=item.question.strip(), expected=list(item.expected))
            out.append({**asked, "answer": reply, "score": item.score(reply), "nll": nll, "guess": guess, **said})
        return out

    def memory(self, quota: int = 0) -> dict:
        """Stream.memory() after the last eviction; after ask() with a quota with `bytes_recall`, of token ids and index."""
        found = self._memory if self.stream.setup.policy else self.stream.memory(quota)
        return {**found, "bytes_recall": self._recalling.n_bytes} if quota else found


@contextlib.contextmanager
def reading_of(stream, reader: Reader, text: Text, mode: str):
    """A Reading, whose stream is closed in the end."""
    with stream:
        yield Reading(stream, reader, text, mode)


# --- the run ---


class _Job:
    """A text of a condition, read by a setup: what one row is of."""

    def __init__(self, engine, reader, plan, condition, index, setup):
        self.engine, self.reader, self.plan = engine, reader, plan
        self.condition, self.index, self.setup = condition, index, setup
        task = registry.find(condition.task)
        turns = task.turns
        self._text = make_text(reader, plan, condition, index) if turns else None
        self.n_ctx = -(-reader.size(self._text) // _N_PAD) * _N_PAD if turns else condition.length
        self.row = dict(
            kind="retrieval",
            task=condition.task,
            haystack=condition.haystack if task.own else registry.load(task, condition.haystack).name,
            length=condition.length,
            mode=condition.mode,
            share=condition.share,
            depths=list(plan.depths),
            n_turns=condition.length if turns else None,
            wording=task.wording,
            seed=plan.seed,
            text=index,
            n_ctx=self.n_ctx,
            **setup_fields(engine, setup, self.n_ctx),
        )

    @property
    def text(self) -> Text:
        return self._text or make_text(self.reader, self.plan, self.condition, self.index)

    def read(self, n_more: int):
        """The text, read into a stream of its own: a context manager that gives a Reading. n_more: positions beside the text's."""
        base = dataclasses.replace(self.setup, recall=0)
        return reading_of(self.engine.open(base, self.n_ctx, n_more=n_more), self.reader, self.text, self.condition.mode)

    def check_pins(self) -> None:
        """Raises ValueError where the budget has no room for what the setup pins."""
        with self.engine.open(self.setup, self.n_ctx) as stream:
            pin(stream, self.reader, self.text)

    def ask(self, reading: Reading) -> dict:
        """The row of the answers."""
        items, means = reading.ask(self.setup.recall), {}
        for name in ("score", "nll", "guess"):
            found = [item[name] for item in items]
            means[name] = None if None in found else sum(found) / len(found)
        text = dict(n_tokens=self.reader.size(reading.text), haystack_at=reading.text.haystack_at)
        return {**self.row, **reading.memory(self.setup.recall), **text, **means, "items": items}


def _groups(setups: list, mode: str) -> list:
    """Lists of setups that read a text once: in mode "blind" those that differ in recall alone."""
    groups = {}
    for setup in setups:
        groups.setdefault(dataclasses.replace(setup, recall=0) if mode == "blind" else setup, []).append(setup)
    return list(groups.values())


def run(engine, plan: Plan, store, progress=lambda done, total, label: None):
    """Measure what is not in the store yet and yield its rows, one per (text, condition, setup).

    The first text of all conditions comes before the second of any. With min_base the full cache reads all texts first, and for
    each condition that is left out a dict of kind "skipped" is yielded (the condition's fields, score, min_base) and not stored.

    Args:
        progress: called with (readings done, all readings, what is being measured); a reading is a text read by a setup.

    Raises:
        ValueError: a text that does not fit its length, or a setup that the model cannot have.
        RuntimeError: llama.cpp could not decode a batch.
    """
    reader, common = Reader(engine), engine_fields(engine)
    done, total = 0, len(plan.conditions) * plan.n_texts * len(plan.setups)
    for one, setup in product(plan.conditions, [setup for setup in plan.setups if setup.oracle]):
        _Job(engine, reader, plan, one, 0, setup).check_pins()  # before hours of work

    def measure(conditions, setups):
        nonlocal done
        for index, one in product(range(plan.n_texts), conditions):
            for group in _groups(setups, one.mode):
                jobs = [_Job(engine, reader, plan, one, index, setup) for setup in group]
                todo = [job for job in jobs if not store.done(job.row)]
                with contextlib.ExitStack() as stack:
                    reading = None
                    for job in jobs:
                        progress(done, total, f"{one.task} {one.length} {one.mode}, text {index + 1}: {job.setup.name}")
                        row = None
                        if job in todo:
                            reading = reading or stack.enter_context(job.read(max(job.setup.recall for job in todo)))
                            row = {**common, **job.ask(reading)}
                            store.add(row)
                        done += 1
                        yield one, key_of(job.row), row

    conditions, setups = plan.conditions, plan.setups
    if plan.min_base:
        keys = {one: [] for one in conditions}
        for one, key, row in measure(conditions, [Setup()]):
            keys[one].append(key)
            if row:
                yield row
        scores = {key_of(row): row["score"] for row in store.rows("retrieval") if row["setup"] == Setup().name}
        setups = [setup for setup in setups if setup != Setup()]
        for one in plan.conditions:
            base = sum(scores[key] for key in keys[one]) / plan.n_texts
            if base < plan.min_base:
                conditions.remove(one)
                done += plan.n_texts * len(setups)
                yield {"kind": "skipped", **dataclasses.asdict(one), "score": base, "min_base": plan.min_base}
    for _, _, row in measure(conditions, setups):
        if row:
            yield row
    progress(total, total, "")
