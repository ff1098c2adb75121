"""Work in progress, and what is left when it is done: bars on stderr, the table on stdout, plots in a folder."""

import sys
import time
from contextlib import contextmanager, nullcontext

from .options import FORMATS

EVERY_S = 60

nothing = nullcontext


@contextmanager
def bar(what: str):
    """A progress bar on stderr with an estimate of the time left; gives the callback (done, total, label). Where stderr is no
    terminal, a line every minute."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[what]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600) as progress:
        task = progress.add_task("", total=None, what=what)

        def say(done, total, label):
            progress.update(task, completed=done, total=total, description=label)

        yield say


def _lines(what: str):
    start = last = time.monotonic()

    def say(done, total, label):
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_S:
            last = now
            left = f", about {(now - start) / done * (total - done) / 60:.0f} min left" if done else ""
            print(f"{what}: {done / max(total, 1):.0%}{left}: {label}", file=sys.stderr, flush=True)

    return say


def start(device: str, n_threads: int) -> None:
    """Say on stderr what the measurements run on: the devices of the cache, and how many CPU threads."""
    print(f"capkv-bench: the cache is on {device}; CPU threads: {n_threads}", file=sys.stderr, flush=True)


def check(form: str, plot) -> None:
    """See that what is asked for at the end can be had, before hours of work. Raises ValueError or ImportError."""
    if form not in FORMATS:
        raise ValueError(f"--output = {form}: allowed is one of {', '.join(FORMATS)}")
    if plot is not None:
        from .report.plot_style import matplotlib

        matplotlib()


def finish(rows: list, form: str, plot, command: str = "") -> None:
    """Print rows in a format; write the plots and the page of them into the folder `plot`, if one is given."""
    from .report.output import render

    sys.stdout.write(render(rows, form))
    if plot is not None:
        from .report.page import write
        from .report.plots import save

        for path in [*save(rows, plot), write(rows, plot, command)]:
            print(path, file=sys.stderr)


def collect(work, store, rows_file) -> bool:
    """Run a generator of rows to its end; False when it was interrupted: what was measured by then is in the store."""
    try:
        for row in work:
            if row["kind"] == "skipped":
                what = " ".join(str(row[name]) for name in ("task", "length", "mode"))
                print(f"{what}: the full cache scores {row['score']:.0%}, below {row['min_base']:.0%}: left out", file=sys.stderr)
        return True
    except KeyboardInterrupt:
        kept = f"the same command goes on from there: {rows_file}" if rows_file else "--rows FILE would have kept them"
        print(f"capkv-bench: interrupted after {len(store.rows())} rows; {kept}", file=sys.stderr)
        return False
