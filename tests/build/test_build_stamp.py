"""What the build writes beside the libraries, so that rows can say what they were measured with."""

import json
import os
import subprocess
from pathlib import Path

import build_stamp
import pytest

from capkv_edge import __version__, _lib

PYPROJECT = '[project]\nname = "x"\nversion = "1.2.3"\n'


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit."""
    root = tmp_path / "checkout"
    (root / "native").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "README.md").write_text("x")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return root


def git(root: Path, *command) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, "-C", str(root), *command], env=env, check=True, capture_output=True, text=True).stdout.strip()


def test_a_build_is_of_the_commit_and_dirty_where_a_source_differs_or_is_new(checkout):
    here = git(checkout, "rev-parse", "--short", "HEAD")
    assert build_stamp.commit(checkout) == here
    (checkout / "README.md").write_text("y")
    assert build_stamp.commit(checkout) == here, "no source of the build"
    (checkout / "native" / "new.cpp").write_text("")
    assert build_stamp.commit(checkout) == here + "-dirty"
    (checkout / "native" / "new.cpp").unlink()
    (checkout / "pyproject.toml").write_text(PYPROJECT + "#")
    assert build_stamp.commit(checkout) == here + "-dirty"


def test_sources_inside_another_checkout_have_no_commit(checkout):
    inside = checkout / "vendored"
    inside.mkdir()
    (inside / "pyproject.toml").write_text(PYPROJECT)
    assert build_stamp.stamp(inside)["commit"] is None and build_stamp.stamp(inside)["version"] == "1.2.3"


def test_the_date_can_be_given_so_that_a_wheel_can_be_built_again(checkout, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert build_stamp.stamp(checkout)["date"] == "1970-01-02T00:00:00Z"


def test_the_installed_package_has_the_stamp_of_its_build():
    found = _lib.build_stamp()
    assert found["version"] == __version__ and found["date"].endswith("Z")


def test_libraries_without_a_stamp_have_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPKV_LIB_PATH", str(tmp_path))
    assert _lib.build_stamp() == dict(commit=None, version=None, date=None)
    (tmp_path / "capkv-build.json").write_text(json.dumps(dict(commit="abc", version="1", date="d", more=1)))
    assert _lib.build_stamp() == dict(commit="abc", version="1", date="d")
