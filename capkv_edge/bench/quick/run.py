"""capkv-bench quick from the command line's values to page and summary."""

import sys
import time
from pathlib import Path

from .. import terminal
from ..run.rows import Store
from . import output, page, steps, work
from .advice import choose
from .found import find
from .work import Job, Model

ROWS, PAGE = "rows.jsonl", "index.html"
INTERRUPTED = 130


def folder_of(model: str, text: str) -> Path:
    """Where rows and page are kept unless a folder is given: the name has model and text."""
    return Path(f"quick-{Path(model).stem}-{Path(text).stem}")


def _say(line: str) -> None:
    print(f"capkv-bench: {line}", file=sys.stderr, flush=True)


def run(make_engine, model: str, job: Job, folder: Path, form: str, max_kl: float, command: str) -> int:
    """Measure, write the page, print the summary; returns the exit status, 130 when interrupted.

    Args:
        make_engine: a function that loads the model.
        model: what the user calls it.
        folder: is made; rows that are there are gone on with.
        form: one of output.FORMATS.
        max_kl: the loss in nats a token that a recommended cache may have.
        command: the command line, which goes on with this run.

    Raises:
        as work.prepare() and work.run().
    """
    output.check_format(form)
    if not max_kl > 0:
        raise ValueError(f"--max-kl = {max_kl}: allowed is a number of nats above 0")
    start = time.monotonic()
    store = Store(folder / ROWS)
    is_whole = False
    with Model(make_engine) as loaded:
        terminal.say_device(loaded.engine.cache_device, loaded.engine.n_threads)
        state, n_ctx_train = work.prepare(loaded, job, store), loaded.engine.n_ctx_train
        end = start + job.seconds
        rate = state.cost.rate("f16")
        if state.done or store.rows():
            _say(f"goes on where it was stopped: {work.count(state.done)} and {len(store.rows())} rows are in {store.path}")
        if state.todo:
            plan = work.describe(state, end - time.monotonic())
            _say(f"{rate:.0f} tokens/s in the first batches, so {job.seconds / 60:g} minutes are enough for {plan}")
            folder.mkdir(parents=True, exist_ok=True)
            with terminal.bar("quick") as progress:
                is_whole = terminal.collect(work.run(state, job, loaded, store, end, progress), store, store.path)
        else:
            _say("all of it is measured; nothing is measured again")
            is_whole = True
    found = find(store.rows())
    if found is None:
        return INTERRUPTED
    notes = _notes(state, job, time.monotonic() - start, is_whole)
    advice = choose(found, max_kl, model, n_ctx_train)
    path = folder / PAGE
    page.write(path, page.render(found, advice, model, command, notes))
    if form == "json":
        sys.stdout.write(output.as_json(found, advice, model, path, store.path))
    else:
        output.show(found, advice, model, path, notes)
    return 0 if is_whole else INTERRUPTED


def _notes(state, job: Job, seconds: float, is_whole: bool) -> list:
    """How far it came, in sentences; the last one says how to go on."""
    out = [f"This run took {seconds / 60:.1f} minutes. Measured so far: {work.count(state.done)}."]
    out.append(f"There are {len(state.documents)} documents of {state.n_ctx:,} tokens to measure, and {steps.MOST_ROUNDS} rounds of speed.")
    if not state.todo:
        return [*out, "All of it is measured."]
    why = "The time is over" if is_whole else "It was interrupted"
    return [*out, f"{why}: the same command goes on, with {work.count(state.todo)} left."]

