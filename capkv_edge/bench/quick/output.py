"""What a quick run prints: a summary of at most 15 lines for a reader, or one JSON object for a program."""

import json
from dataclasses import asdict

from ..report.output import without_nan
from . import words
from .advice import Advice
from .found import Cache, Found

FORMATS = ("text", "json")
WIDTH = 110  # where stdout is no terminal


def check_format(form: str) -> None:
    """Raises ValueError where `form` is not one of FORMATS."""
    if form not in FORMATS:
        raise ValueError(f"--output = {form}: allowed is one of {', '.join(FORMATS)}")


def show(found: Found, advice: Advice | None, model: str, page, notes: list) -> None:
    """Print the summary on stdout.

    Args:
        model: what the user calls the model.
        page: path of the page.
        notes: sentences on how far the run came; the last one is printed.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("cache", no_wrap=True)
    for name in ("memory", "loss, nats", "x q4_0's", "same next token", "reads", "decodes"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.caches:
        if one.is_first:
            table.add_row(*_line(found, one), style="bold" if advice and advice.cache.setup == one.setup else None)

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    say(f"{model} on {found.rows[-1].get('device')}, {found.rows[-1].get('n_threads')} threads: {words.measured(found)}")
    console.print(table)
    say(words.equal_bytes(found, "q4_0", brief=True))
    if advice is None:
        say("No recommendation yet: speed and memory are not measured so far.")
    else:
        say(advice.headline, "bold")
        say(f"  {advice.command}")
    say(f"page: {page}")
    say(notes[-1], "bright_black")


def _line(found: Found, one: Cache) -> list:
    speeds = ("1", "1") if one.is_base else (words.ratio(found.reading(one), True), words.ratio(found.decoding(one), True))
    loss = "0" if one.is_base else words.nats(one.kl)
    same = "100 %" if one.is_base else f"{100 * one.same.mean:.1f} %"
    return [one.label, words.mib(one.n_bytes), loss, words.times(one, "q4_0"), same, *speeds]


def as_json(found: Found, advice: Advice | None, model: str, page, rows_file) -> str:
    """The same for programs, with null for what was not measured: losses in nats, shares of 1, bytes, tokens per second."""
    last = found.rows[-1]
    told = dict(
        model=model,
        model_hash=last.get("model_hash"),
        device=last.get("device"),
        n_threads=last.get("n_threads"),
        n_ctx=found.n_ctx,
        n_docs=found.n_docs,
        n_rounds=found.n_rounds,
        caches=[_cache(found, one) for one in found.caches],
        recommended=None if advice is None else _advice(advice),
        page=str(page),
        rows=str(rows_file),
    )
    return json.dumps(without_nan(told), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _cache(found: Found, one: Cache) -> dict:
    return dict(
        setup=one.setup.name,
        budget=one.budget,
        type=one.setup.type,
        n_docs=one.loss.n if one.loss else None,
        kl=None if one.is_base else asdict(one.kl),
        same_top=None if one.is_base else asdict(one.same),
        times_q8_0=one.times.get("q8_0"),
        times_q4_0=one.times.get("q4_0"),
        bytes_held=one.held,
        bytes_in_chat=one.n_bytes,
        bytes_process=one.peak,
        reads=list(one.reads.values()),
        decodes=list(one.decodes.values()),
        reads_as_fast=None if one.is_base else asdict(found.reading(one)),
        decodes_as_fast=None if one.is_base else asdict(found.decoding(one)),
    )


def _advice(advice: Advice) -> dict:
    return dict(
        command=advice.command,
        is_budget=advice.is_budget,
        budget=advice.cache.budget,
        type=advice.cache.setup.type,
        reasons=[advice.headline, *advice.reasons],
        warnings=advice.warnings,
    )
