"""Print the requirements of an extra in pyproject.toml, one a line: requirements.py EXTRA

Python has a TOML parser from 3.11 on only, so this reads the file as text: each extra has to be on one line.
"""

import re
import sys
from pathlib import Path


def read_extra(name: str) -> list[str]:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    for line in section.splitlines():
        if re.match(rf"{re.escape(name)}\s*=", line):
            return re.findall(r'"([^"]+)"', line.partition("#")[0])
    raise SystemExit(f"capkv: pyproject.toml has no extra '{name}'")


if __name__ == "__main__":
    print("\n".join(read_extra(sys.argv[1])))
