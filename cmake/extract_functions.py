"""Copy functions out of a source file of llama.cpp, so that a test can compile them alone: extract_functions.py SOURCE OUT NAME ..."""

from __future__ import annotations

import re
import sys
from pathlib import Path


class NotFound(Exception):
    """The source has no such function; the text says what to do."""


def extract(text: str, name: str, source: str) -> str:
    """The text of a function, which begins and ends at the left margin.

    Raises:
        NotFound: the source has no function of that name, or more than one.
    """
    pattern = rf"^\w[\w *&]*[ *&]{name}\([^;{{}}]*\) *\{{$.*?^\}}$"
    found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise NotFound(
            f"the pinned llama.cpp has {len(found)} functions {name} in {source}, not one: it was renamed or moved."
            " Name the new one in cmake/backend_rules.cmake, and check what tests/native/backend-rules provides for it."
        )
    return found[0]


def main(source: Path, out: Path, names: list[str]) -> None:
    try:
        text = source.read_text(encoding="utf-8")
        parts = [extract(text, name, source.name) for name in names]
    except FileNotFoundError:
        sys.exit(f"capkv: the pinned llama.cpp has no file {source.name}: name the new one in cmake/backend_rules.cmake")
    except NotFound as error:
        sys.exit(f"capkv: {error}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
