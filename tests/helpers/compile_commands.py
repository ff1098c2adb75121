"""How the libraries under test were compiled, so that a test can compile one file more, or another way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_folder() -> Path:
    """Where the libraries at hand were built; objects and commands are still there."""
    candidates = [Path(os.environ[name]).parent for name in ("CAPKV_LIB_PATH",) if os.environ.get(name)]
    candidates += [ROOT / "build" / "wheel", ROOT / "build" / "dev"]
    found = [folder for folder in candidates if (folder / "build.ninja").is_file()]
    if not found:
        pytest.fail("no build folder: make test builds in build/wheel, make build in build/dev")
    return found[0]


def _ninja() -> str:
    return shutil.which("ninja", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def commands(build: Path, target: str = "lib/libllama.so") -> list:
    """The commands that make a target, in their order."""
    found = subprocess.run([_ninja(), "-t", "commands", target], cwd=build, check=True, capture_output=True, text=True)
    return found.stdout.splitlines()


def dependents(build: Path, header: Path) -> list:
    """The objects, relative to the build folder, whose compilation read a header."""
    found = subprocess.run([_ninja(), "-t", "deps"], cwd=build, check=True, capture_output=True, text=True)
    blocks = found.stdout.split("\n\n")
    return [block.partition(":")[0] for block in blocks if any(Path(build, line.strip()) == header for line in block.splitlines()[1:])]
