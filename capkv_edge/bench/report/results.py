"""The generated part of docs/results.md: tables and sentences between two marks, all of it from rows."""

import os
import re
from pathlib import Path

from ..kinds import KINDS, Kind, text_of
from .caveats import find_caveats
from .output import markdown
from .pivots import pivots, rate_pivots, rate_sentences
from .rounds import tests
from .summary import DEFAULT, all_comparisons, summaries
from .tables import pooled_table
from .verdicts import sentences

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def results(rows: list[dict], default: str = DEFAULT, images: dict | None = None) -> str:
    """The Markdown of all that the rows show. images: {name of a plot: link to its picture}."""
    parts = [_measured(rows)]
    for kind in KINDS.values():
        parts += _part(kind, rows, default, images or {})
    found = find_caveats(rows)
    parts += ["Notes:\n", "".join(f"- {one}\n" for one in found)] if found else []
    return "\n".join(part for part in parts if part)


def _measured(rows: list[dict]) -> str:
    def seen(name):
        return ", ".join(sorted({text_of(row.get(name)) for row in rows if row.get(name) is not None}))

    models = ", ".join(sorted({f"{row.get('model')} ({row.get('model_type')})" for row in rows}))
    return f"Model: {models}. Machine: {seen('device')}. Commit {seen('commit') or 'not recorded'}, llama.cpp of {seen('pin')}.\n"


def _part(kind: Kind, rows: list[dict], default: str, images: dict) -> list[str]:
    """Title, introduction, sentences, pictures and tables of one kind; nothing without rows of it."""
    said = []
    if kind.unit:
        found = summaries(rows, kind.name)
        for paired in all_comparisons(found, default):
            table = pooled_table(kind, paired, default, quote="`")
            said += [_bullets(sentences(paired)), f"{table.about}\n", markdown(table)]
    else:
        found = [row for row in tests(rows, kind.name) if row.get("avg_ts")]
        said.append(_bullets(rate_sentences(found, default)))
    if not found:
        return []
    pictures = [_pictures(images, drawing.name) for drawing in kind.plots]
    return [
        f"### {kind.title}\n",
        kind.introduction + "\n",
        *said,
        *(link for links in pictures[:1] for link in links),
        *(pivots(found) if kind.unit else rate_pivots(found)),
        *(link for links in pictures[1:] for link in links),
    ]


def _bullets(sentences: list[str]) -> str:
    return "".join(f"- {sentence}\n" for sentence in sentences)


def _pictures(images: dict, name: str) -> list[str]:
    return [f"![{one}]({link})\n" for one, link in images.items() if one == name or one.startswith(name + "-")]


def replace_part(text: str, part: str, begin: str = BEGIN, end: str = END) -> str:
    """The document with what stands between the two marks replaced.

    Raises:
        ValueError: the marks are missing, are there more than once, or in the wrong order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the document has to have one line {begin} and after it one line {end}")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{part.strip()}\n\n{end}{rest.partition(end)[2]}"


def write_part(path: Path, part: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the two marks of a file.

    Raises:
        ValueError: as replace_part(); the file stays as it is.
    """
    path.write_text(replace_part(path.read_text(encoding="utf-8"), part, begin, end), encoding="utf-8")


def images_of(document: Path, folder) -> dict[str, str]:
    """{name: link from the document} of the PNGs in a folder."""
    return {one.stem: Path(os.path.relpath(one, document.parent)).as_posix() for one in sorted(Path(folder).glob("*.png"), key=_in_order)}


def _in_order(path: Path) -> list:
    """A key that sorts file names by the numbers in them: heat-2 before heat-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def write(document, rows: list[dict], folder=None, default: str = DEFAULT) -> Path:
    """Replace the generated part of a document by what the rows show; returns its path. PNGs in the folder are linked.

    Raises:
        ValueError: the document does not have the two marks.
    """
    path = Path(document)
    write_part(path, results(rows, default, images_of(path, folder) if folder is not None else {}))
    return path
