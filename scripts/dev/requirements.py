"""Print the requirements of one of pyproject.toml's extras: requirements.py EXTRA

Read without a TOML parser, which Python has from 3.11 on only: each extra is one line.
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
