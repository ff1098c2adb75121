"""The workflows for CI and releases, and the configuration of the wheels, as the tools that read them see them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(CHECKOUT.glob(".github/workflows/*.yml"))
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def run(*command):
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, env={**os.environ, "PATH": TOOLS})


@pytest.mark.skipif(shutil.which("actionlint", path=TOOLS) is None, reason="actionlint is not there (extra workflows)")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path):
    done = run("actionlint", "-format", "{{json .}}", str(path))
    assert [(found["line"], found["message"]) for found in json.loads(done.stdout)] == []


@pytest.mark.skipif(shutil.which("cibuildwheel", path=TOOLS) is None, reason="cibuildwheel is not there (extra release)")
@pytest.mark.parametrize(
    "platform, archs, wheels",
    [
        ("linux", "x86_64", ["cp312-manylinux_x86_64"]),
        ("linux", "aarch64", ["cp312-manylinux_aarch64"]),
        ("macos", "arm64", ["cp312-macosx_arm64"]),
        ("windows", "AMD64", ["cp312-win_amd64"]),
    ],
)
def test_each_platform_has_one_wheel(platform, archs, wheels):
    done = run("cibuildwheel", "--print-build-identifiers", "--platform", platform, "--archs", archs, ".")
    assert done.stdout.split() == wheels, done.stderr


def test_paths_that_workflows_name_are_there():
    for path in WORKFLOWS:
        for name in re.findall(r"(?:scripts|cmake|tests|\.ci|\.github/actions)/[\w./-]+", path.read_text(encoding="utf-8")):
            assert (CHECKOUT / name).exists(), f"{name} in {path.name}"
