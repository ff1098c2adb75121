"""The command lines that the documents show."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?((?:capkv-(?:chat|bench|inspect|serve)|make) +(?!capkv-)\S.*)$")


def lines_of_code(text: str) -> list[str]:
    """The lines of a document's code: indented by four spaces or fenced, without comments, with continued lines put together."""
    fenced = re.findall(r"^```(?:console|sh|bash|shell)?\n(.*?)^```", text, re.S | re.M)
    indented = ["\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))]
    code = "\n".join(fenced + indented).replace("\\\n", " ")
    return [line.strip() for line in code.splitlines()]


def commands() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for line in lines_of_code(document.read_text(encoding="utf-8")):
            match = PROGRAM.match(line)
            if match:
                found.append(match[1])
    return sorted(set(found))
