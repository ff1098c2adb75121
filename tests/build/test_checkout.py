"""The package in a checkout's own folder, where it has no libraries of its own and comes before the installed one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import capkv_edge
from capkv_edge import _lib

PACKAGE = Path(capkv_edge.__file__).parent
CODE = "import capkv_edge\nfrom capkv_edge import Llama, _lib\nprint(capkv_edge.__file__)\nprint(_lib.lib_dir())\n"


@pytest.fixture
def checkout(tmp_path):
    """A folder with the package's Python, and its header where a checkout has it."""
    shutil.copytree(PACKAGE, tmp_path / "capkv_edge", ignore=shutil.ignore_patterns("lib", "include", "__pycache__"))
    (tmp_path / "native" / "include").mkdir(parents=True)
    shutil.copy2(_lib.lib_dir().parent / "include" / "capkv.h", tmp_path / "native" / "include")
    return tmp_path


def build(checkout, name):
    """Put libraries into build/NAME/lib; returns the folder."""
    folder = checkout / "build" / name / "lib"
    folder.parent.mkdir(parents=True)
    shutil.copytree(_lib.lib_dir(), folder)
    for path in folder.iterdir():
        path.touch()
    return folder


def python(*args, isolated=False, stdin=""):
    """Run Python in the current folder, which comes first where modules are looked for. isolated: only llama_cpp and what it
    needs are there, no installed capkv-edge."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CAPKV_LIB_PATH")}
    if isolated:
        hidden = Path("hidden")
        hidden.mkdir()
        for path in PACKAGE.parent.iterdir():
            if not path.name.startswith("capkv_edge") and path.name != "__pycache__":
                (hidden / path.name).symlink_to(path)
        env["PYTHONPATH"] = str(hidden.absolute())
        args = ("-S", *args)
    return subprocess.run([sys.executable, *args], env=env, input=stdin, capture_output=True, text=True)


@pytest.mark.parametrize("args, stdin", [(("-c", CODE), ""), (("-i",), CODE)], ids=["-c", "REPL"])
def test_the_installed_libraries_serve_the_checkouts_python(checkout, args, stdin):
    done = python(*args, stdin=stdin)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    assert done.stdout.splitlines() == [str(checkout / "capkv_edge" / "__init__.py"), str(_lib.lib_dir())]


@pytest.mark.parametrize("name", ["wheel", "dev"])
def test_without_an_installed_package_a_build_serves(checkout, name):
    folder = build(checkout, name)
    done = python("-c", CODE, isolated=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == str(folder)


def test_libraries_of_another_version_are_not_mixed_in(checkout):
    header = checkout / "native" / "include" / "capkv.h"
    header.write_text(header.read_text() + "\n")
    done = python("-c", CODE)
    assert done.returncode == 1
    assert f"no {_lib._NAMES[0]} in {checkout / 'capkv_edge' / 'lib'}; " in done.stderr
    assert f"{_lib.lib_dir()} is of another version: its capkv.h is not the checkout's" in done.stderr


def test_an_outdated_build_is_not_used(checkout):
    folder = build(checkout, "wheel")
    header = checkout / "native" / "include" / "capkv.h"
    later = (folder / _lib._NAMES[0]).stat().st_mtime + 10
    os.utime(header, (later, later))
    done = python("-c", CODE, isolated=True)
    assert done.returncode == 1
    assert f"{folder} is older than {header}; no {_lib._NAMES[0]} in {checkout / 'build' / 'dev' / 'lib'}: `pip install .`" in done.stderr
