"""What a user sees of a run: progress on stderr, then the tables on stdout, and plots in a folder."""

import sys
import time
from contextlib import contextmanager

from .report import output, page
from .report.plots import draw, style

EVERY_S = 60  #: between two lines of progress, where stderr is no terminal


@contextmanager
def bar(what: str):
    """A progress bar on stderr with an estimate of the time left; gives the callback (done, total, label) that moves it.

    Where stderr is no terminal, it is a line every minute."""
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


def say_device(device: str, n_threads: int) -> None:
    """Say on stderr which devices hold the cache, and how many CPU threads there are."""
    print(f"capkv-bench: the cache is on {device}; CPU threads: {n_threads}", file=sys.stderr, flush=True)


def check(form: str, plot) -> None:
    """Check, before hours of work, that the output format exists and that plots can be drawn. Raises ValueError or ImportError."""
    output.check_format(form)
    if plot is not None:
        style.matplotlib()


def finish(rows: list, form: str, plot, command: str = "") -> None:
    """Print rows in a format; write the plots and the page of them into the folder `plot`, if one is given.

    command: the command line, for the page.
    """
    sys.stdout.write(output.render(rows, form))
    if plot is not None:
        for path in [*draw.save(rows, plot), page.write(rows, plot, command)]:
            print(path, file=sys.stderr)


def collect(work, store, rows_file) -> bool:
    """Run a generator of rows to its end; False when it was interrupted. What was measured by then is in the store."""
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
