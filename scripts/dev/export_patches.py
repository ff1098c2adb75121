"""Write patches/*.patch again from an edited llama.cpp tree: export_patches.py TREE [NAME.patch ...]

TREE is the patched source of a build (build/dev/llama.cpp), or a tree that `cmake/llama_source.py unpack TREE` made. Each run
of added lines goes to the patch that already has most of them, else to --new NAME.patch, else to the only patch that changes
the file. A patch keeps its header, which says why it exists. Removed and changed lines of llama.cpp are an error, and so is a
patch that would have fewer hooks in a file than before, unless --drop says that they are to go.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cmake"))
import llama_source
import patch_series
from patch_series import PATCHES, Patch, PatchError

CONTEXT = 3
# of a new patch
HEADER = "AREA: WHAT IT DOES\n\nReason: temporary, build-only or by design; and why.\nContract: what the calls do.\nCan go: when.\n\n"

Inserts = dict[int, list[str]]  # line index, from 0 -> the lines inserted before that line


def find_inserts(path: str, old: list[str], new: list[str]) -> Inserts:
    """The lines that new has and old has not.

    Raises:
        PatchError: a line of old was changed or removed.
    """
    inserts: Inserts = {}
    i = 0
    for line in new:
        if i < len(old) and line == old[i]:
            i += 1
        else:
            inserts.setdefault(i, []).append(line)
    if i < len(old):
        raise PatchError(f"{path}: line {i + 1}, '{old[i].strip()}', was changed or removed: hooks are lines of their own")
    return inserts


def owner(path: str, run: list[str], patches: list[Patch], new: str | None) -> str:
    """Name of the patch that a run of added lines belongs to.

    Raises:
        PatchError: several patches change the file, none has these lines, and no new one is named.
    """
    here = [patch for patch in patches if path in patch.files]
    hooks = {patch.name: patch_series.hook_lines([patch], path) for patch in here}
    best = max(hooks, key=lambda name: sum(line in hooks[name] for line in run if line.strip()), default=None)
    if best and any(line in hooks[best] for line in run if line.strip()):
        return best
    if new or len(here) == 1:
        return new or here[0].name
    raise PatchError(f"{path}: '{run[0].strip()}' could belong to any patch: name it with --new NAME.patch")


def apply_inserts(lines: list[str], inserts: Inserts) -> tuple[list[str], list[bool]]:
    """The lines with the inserts, and for each of them whether it was inserted."""
    out, added = [], []
    for i in range(len(lines) + 1):
        run = inserts.get(i, [])
        out += run + lines[i : i + 1]
        added += [True] * len(run) + [False] * len(lines[i : i + 1])
    return out, added


def format_diff(path: str, base: list[str], inserts: Inserts) -> str:
    """The unified diff that adds the inserts to base."""
    out, added = apply_inserts(base, inserts)
    marks = [i for i, is_new in enumerate(added) if is_new]
    text = [f"diff --git a/{path} b/{path}", f"--- a/{path}", f"+++ b/{path}"]
    while marks:
        last = 0
        while last + 1 < len(marks) and marks[last + 1] - marks[last] <= 2 * CONTEXT + 1:
            last += 1
        start, end = max(0, marks[0] - CONTEXT), min(len(out), marks[last] + CONTEXT + 1)
        if end == len(out) and out[-1] == "":
            end -= 1  # the empty text after the last newline is no line
        n_new, n_added = end - start, last + 1
        before = start - sum(added[:start])
        function = next((line[:80].rstrip() for line in reversed(out[:start]) if line[:1].isalpha() or line[:1] == "_"), "")
        text.append(f"@@ -{before + 1},{n_new - n_added} +{start + 1},{n_new} @@ {function}".rstrip())
        text += [("+" if added[i] else " ") + out[i] for i in range(start, end)]
        marks = marks[last + 1 :]
    return "\n".join(text) + "\n"


def check_lost(patch: Patch, added: dict[str, list[str]]) -> None:
    """Refuse to write a patch with fewer lines for a file than it has: a hunk that was left out may be forgotten."""
    for path in patch.files:
        before, after = patch_series.hook_lines([patch], path), Counter(added.get(path, []))
        lost = [line for line in (before - after).elements() if line.strip()]
        if lost and after.total() < before.total():
            shown = "\n".join("  | " + line for line in lost)
            raise PatchError(
                f"patches/{patch.name} has hooks for {path} that the tree has not:\n{shown}\n"
                "Nothing was written. Put them where they belong now, or say --drop if they are to go."
            )


def export(tree: Path, only: list[str], new: str | None, *, drop: bool = False) -> None:
    files = llama_source.read_files(None)
    patches = patch_series.load_series()
    names = [patch.name for patch in patches] + ([new] if new and new not in patch_series.series() else [])
    diffs: dict[str, list[str]] = {name: [] for name in names}
    added: dict[str, dict[str, list[str]]] = {name: {} for name in names}

    for path in sorted(files):
        if not (tree / path).is_file():
            raise PatchError(f"{tree / path} is missing: is {tree} a llama.cpp tree?")
        edited = (tree / path).read_bytes()
        if edited == files[path]:
            continue
        old, lines = (data.decode("utf-8").split("\n") for data in (files[path], edited))
        mine: dict[str, Inserts] = {name: {} for name in names}
        for at, run in find_inserts(path, old, lines).items():
            mine[owner(path, run, patches, new)][at] = run
        done: Inserts = {}
        for name in names:  # each patch applies to the result of those before it
            if not mine[name]:
                continue
            base, _ = apply_inserts(old, done)
            diffs[name].append(format_diff(path, base, shift(mine[name], done)))
            added[name][path] = [line for run in mine[name].values() for line in run]
            done |= mine[name]

    for patch in patches if not drop else []:
        if not only or patch.name in only:
            check_lost(patch, added[patch.name])
    for name in names:
        if only and name not in only or not diffs[name]:
            continue
        header = next((patch.header.rstrip("\n") + "\n\n" for patch in patches if patch.name == name), HEADER)
        (PATCHES / name).write_text(header + "".join(diffs[name]), encoding="utf-8")
        print(f"patches/{name}: {sum(diff.count(chr(10) + '+') - 1 for diff in diffs[name])} added lines")
    if new and new not in patch_series.series():
        with (PATCHES / "series").open("a", encoding="utf-8") as file:
            file.write(new + "\n")


def shift(inserts: Inserts, done: Inserts) -> Inserts:
    """The inserts with their indices moved behind the lines of `done`, which are in the file already."""
    return {at + sum(len(run) for place, run in done.items() if place < at): run for at, run in inserts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="an edited llama.cpp tree")
    parser.add_argument("names", nargs="*", help="write only these patches")
    parser.add_argument("--new", metavar="NAME.patch", help="the patch for lines that belong to none yet")
    parser.add_argument("--drop", action="store_true", help="let hooks go that the tree has no more")
    args = parser.parse_args()
    try:
        export(args.tree, args.names, args.new, drop=args.drop)
    except (PatchError, llama_source.SourceError) as error:
        print(f"capkv: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
