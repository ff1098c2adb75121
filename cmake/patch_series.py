"""Read patches/series and apply it in memory.

The patches only add lines, so no merge tool is needed: the context of each hunk has to be in the file, and the result is the
file with the added lines. `missing_hooks` proves that from the files on disk.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "patches"

HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """A patch that cannot be read or does not fit; the text is for the user."""


@dataclass
class Hunk:
    header: str
    start: int  # index of the first line in the file before the patch, from 0
    body: list[str]  # lines with their leading " " or "+"

    @property
    def old(self) -> list[str]:
        return [line[1:] for line in self.body if line[0] == " "]

    @property
    def new(self) -> list[str]:
        return [line[1:] for line in self.body]

    @property
    def added(self) -> list[str]:
        return [line[1:] for line in self.body if line[0] == "+"]

    def with_context(self, n: int) -> Hunk:
        """The same hunk with at most n lines of context before its first and after its last added line."""
        marks = [i for i, line in enumerate(self.body) if line[0] == "+"]
        first = max(0, marks[0] - n)
        return Hunk(self.header, self.start + first, self.body[first : marks[-1] + 1 + n])


@dataclass
class Patch:
    name: str
    header: str = ""
    files: dict[str, list[Hunk]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """What follows "Reason:" in the header, up to the end of that line; empty without one."""
        return next((line[7:].strip() for line in self.header.splitlines() if line.startswith("Reason:")), "")

    @property
    def is_build_only(self) -> bool:
        """It makes the source compile correctly and adds no hook, so the unpatched build that we compare with has it too."""
        return self.reason.startswith("build-only")


Place = tuple[Patch, str, Hunk]  # a hunk, the patch that it is of, and the file that it is for


def series(patches: Path = PATCHES) -> list[str]:
    """Names of the patches, in the order in which they apply."""
    path = patches / "series"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def load_series(patches: Path = PATCHES) -> list[Patch]:
    loaded = []
    for name in series(patches):
        path = patches / name
        if not path.exists():
            raise PatchError(f"patches/series lists {name}, but there is no patches/{name}")
        loaded.append(parse(name, path.read_text(encoding="utf-8")))
    return loaded


def parse(name: str, text: str) -> Patch:
    """Parse a unified diff; the text before it is the patch's header."""
    patch = Patch(name)
    lines = text.replace("\r\n", "\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line.startswith(("diff --git ", "--- a/"))), len(lines))
    patch.header = "\n".join(lines[:first])

    hunks: list[Hunk] | None = None
    i = first
    while i < len(lines):
        line = lines[i]
        i += 1
        if line.startswith("+++ "):
            target = line[4:].split("\t")[0].strip()
            if not target.startswith("b/"):
                raise PatchError(f"patches/{name}: '{line}' does not name a file as b/PATH")
            hunks = patch.files.setdefault(target[2:], [])
        elif match := HUNK.match(line):
            if hunks is None:
                raise PatchError(f"patches/{name}: '{line}' comes before any file name")
            n_old, n_new = int(match[2] or 1), int(match[4] or 1)
            hunk, i = _parse_hunk(name, lines, i, line, int(match[1]) - 1, n_old, n_new)
            hunks.append(hunk)
    if not patch.files:
        raise PatchError(f"patches/{name}: no hunk in it")
    return patch


def _parse_hunk(name: str, lines: list[str], i: int, header: str, start: int, n_old: int, n_new: int) -> tuple[Hunk, int]:
    body: list[str] = []
    while n_old > 0 or n_new > 0:
        line = lines[i] if i < len(lines) else "end of file"
        i += 1
        if line.startswith("\\"):
            continue
        kind = line[:1] or " "
        if kind not in " +":
            raise PatchError(
                f"patches/{name}: '{line}' in hunk {header}: a hunk has context and added lines alone, it removes none"
            )
        body.append(line or " ")
        n_new -= 1
        n_old -= kind == " "
    if n_old < 0 or n_new < 0:
        raise PatchError(f"patches/{name}: the lines of hunk {header} are not as many as it says")
    return Hunk(header, start, body), i


def apply_hunks(lines: list[str], hunks: list[Hunk]) -> tuple[list[str], list[Hunk]]:
    """Return the lines with all hunks applied, and the hunks that do not fit.

    A hunk fits where its context is found exactly: at the line that it names plus the lines that earlier hunks added, or else
    at the only other place in the file that has it.
    """
    lines = list(lines)
    shift = 0
    rejected = []
    for hunk in hunks:
        old = hunk.old
        at = hunk.start + shift
        if at < 0 or lines[at : at + len(old)] != old:
            places = [i for i in range(len(lines) - len(old) + 1) if lines[i : i + len(old)] == old]
            if len(places) != 1 or not old:
                rejected.append(hunk)
                continue
            at = places[0]
        lines[at : at + len(old)] = hunk.new
        shift = at - hunk.start + len(hunk.added)
    return lines, rejected


def nearest_place(lines: list[str], hunk: Hunk) -> int:
    """Index of the place whose lines are most like the hunk's context; of equal ones the nearest to the function that its header names."""
    function = hunk.header.rpartition("@@")[2].strip()
    starts = [i for i, line in enumerate(lines) if function and line.startswith(function)]
    expected = starts[0] if len(starts) == 1 else hunk.start

    def likeness(at: int) -> tuple[int, int, int]:
        there = lines[at : at + len(hunk.old)]
        common = Counter(there) & Counter(hunk.old)
        n_in_place = sum(line == old and len(line.strip()) > 1 for line, old in zip(there, hunk.old))
        return sum(len(line.strip()) * n for line, n in common.items()), n_in_place, -abs(at - expected)

    return max(range(len(lines)), key=likeness)


def apply_series(files: dict[str, bytes], patches: list[Patch]) -> tuple[dict[str, bytes], list[Place]]:
    """Return the patched files (path -> content), and the (patch, path, hunk) that do not fit."""
    changed: dict[str, bytes] = {}
    rejected = []
    for patch in patches:
        for path, hunks in patch.files.items():
            if path not in files:
                rejected += [(patch, path, hunk) for hunk in hunks]
                continue
            text = changed.get(path, files[path]).decode("utf-8")
            lines, bad = apply_hunks(text.split("\n"), hunks)
            changed[path] = "\n".join(lines).encode("utf-8")
            rejected += [(patch, path, hunk) for hunk in bad]
    return changed, rejected


def applied_hunks(files: dict[str, bytes], patches: list[Patch]) -> list[Place]:
    """The (patch, path, hunk) that are in the files already."""
    found = []
    for patch in patches:
        for path, hunks in patch.files.items():
            text = "\n" + files.get(path, b"").decode("utf-8")
            found += [(patch, path, hunk) for hunk in hunks if "\n" + "\n".join(hunk.new) + "\n" in text]
    return found


def apply_loosely(changed: dict[str, bytes], rejected: list[Place], n_context: int) -> tuple[list[Place], list[Place]]:
    """Put hunks that do not fit where fewer lines of context are found; returns those that are in now, and those left out."""
    placed, left_out = [], []
    for patch, path, hunk in rejected:
        lines, bad = apply_hunks(changed.get(path, b"").decode("utf-8").split("\n"), [hunk.with_context(n_context)])
        (left_out if bad else placed).append((patch, path, hunk))
        if not bad:
            changed[path] = "\n".join(lines).encode("utf-8")
    return placed, left_out


def hook_lines(patches: list[Patch], path: str) -> Counter[str]:
    """The lines that the patches add to a file, each with its count."""
    return Counter(line for patch in patches for hunk in patch.files.get(path, []) for line in hunk.added)


def missing_hooks(patches: list[Patch], path: str, before: bytes, after: bytes) -> list[str]:
    """Compare a file before and after: returns added lines that are missing, and lines that changed beyond the patches."""
    old, new = (Counter(data.decode("utf-8").split("\n")) for data in (before, after))
    hooks = hook_lines(patches, path)
    return list((hooks - (new - old)).elements()) + list(((new - old) - hooks).elements()) + list((old - new).elements())
