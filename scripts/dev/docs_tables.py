"""Write the tables of README.md and docs/ that are generated from what the program declares.

    scripts/dev/docs_tables.py             write what has changed
    scripts/dev/docs_tables.py options     print one table

A table stands between `<!-- table: NAME, written by scripts/dev/docs_tables.py -->` and `<!-- end of table -->`.
"""

import re
import sys
from pathlib import Path

import readme_table

from capkv_edge.config import options, policies

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- table: (\w+), written by scripts/dev/docs_tables\.py -->\n).*?(<!-- end of table -->)", re.S)


def markdown(head: tuple, rows: list) -> str:
    """A table in Markdown, with a line break at its end."""
    top, *lines = ("| " + " | ".join(row) + " |\n" for row in (head, *rows))
    return top + "|" + "---|" * len(head) + "\n" + "".join(lines)


def option_table() -> str:
    """The options of a KV budget."""
    rows = [(f"`{option.name}`", option.default, option.help, option.range) for option in options().values()]
    return markdown(("option", "default", "what it is", "allowed"), rows)


def policy_table() -> str:
    """The eviction policies."""
    rows = [(f"`{name}`", text) for name, text in policies().items()]
    return markdown(("policy", "what it keeps beside the sinks and the last tokens"), rows)


def figure_table() -> str:
    """What a budget gains and loses, as measured."""
    return markdown(readme_table.HEAD, readme_table.lines(readme_table.read_rows()))


TABLES = {"options": option_table, "policies": policy_table, "figures": figure_table}


def documents() -> dict:
    """{path: text} of the documents that can hold tables."""
    return {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def filled(text: str) -> str:
    """A document with its tables made anew. Raises KeyError for a table that nothing makes."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main(names: list) -> None:
    for name in names:
        print(TABLES[name](), end="")
    if not names:
        for path, text in documents().items():
            if filled(text) != text:
                path.write_text(filled(text), encoding="utf-8")
                print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
