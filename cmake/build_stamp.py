"""Writes what the libraries are built from into a file beside them: commit, version and date, as JSON.

    python cmake/build_stamp.py build/dev/lib/capkv-build.json

Rows of capkv-bench repeat it, since the checkout around an installed package may have moved on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: what the libraries and the Python are made of: a change elsewhere, as in documents, makes no build dirty
SOURCES = ("CMakeLists.txt", "LLAMA_CPP_VERSION", "pyproject.toml", "capkv_edge", "cmake", "native", "patches")


def _git(root: Path, *command: str) -> str | None:
    try:
        found = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True)
    except OSError:  # git is not installed
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def commit(root: Path = ROOT) -> str | None:
    """The commit of a checkout, with "-dirty" where a source differs from it or is new; None where `root` is no checkout's top.

    An archive that was packed from a checkout says its commit in ABOUT.json (scripts/checks/gpu/gpu_pack.py)."""
    if not (root / ".git").exists():  # the sources may lie in the checkout of another project
        about = root / "ABOUT.json"
        return json.loads(about.read_text(encoding="utf-8"))["commit"] if about.exists() else None
    found = _git(root, "rev-parse", "--short", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *SOURCES)
    return None if found is None or changed is None else found + ("-dirty" if changed else "")


def version(root: Path = ROOT) -> str | None:
    """The version in pyproject.toml."""
    found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found and found[1]


def stamp(root: Path = ROOT) -> dict[str, str | None]:
    """{commit, version, date}; the date is of now, or $SOURCE_DATE_EPOCH where that is set, in UTC."""
    now = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    return dict(commit=commit(root), version=version(root), date=time.strftime("%Y-%m-%dT%H:%M:%SZ", now))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stamp()) + "\n", encoding="utf-8")
