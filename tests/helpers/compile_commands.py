"""How the libraries under test were compiled, so that a test can compile another file, or with other options."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capkv_edge import _lib

ROOT = Path(__file__).resolve().parents[2]


def build_folder() -> Path:
    """The folder in which the libraries under test were built, with its objects and commands."""
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
    objects = []
    for block in found.stdout.split("\n\n"):
        target, *read = block.splitlines() or [""]
        if any(Path(os.path.normpath(build / line.strip())) == header for line in read):
            objects.append(target.partition(":")[0])
    return objects


def link_libllama(build: Path, folder: Path, objects: dict) -> None:
    """libllama.so in a folder, beside links to the other libraries, with objects of the build replaced: {old: "new" or "new new"}."""
    link = commands(build)[-1].replace("-o lib/libllama.so", f"-o {folder}/libllama.so")
    for old, new in objects.items():
        link = link.replace(old, new)
    subprocess.run(link, cwd=build, shell=True, check=True)
    for library in Path(_lib.lib_dir()).glob("*.so"):
        if library.name != "libllama.so":
            (folder / library.name).symlink_to(library)
