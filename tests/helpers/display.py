"""A screen that nobody sees, for windows under test."""

import contextlib
import os
import shutil
import subprocess

import pytest

SIZE = (900, 640)


@contextlib.contextmanager
def virtual_screen():
    """Xvfb for as long as the block runs; DISPLAY names it. Where it is not installed the test is skipped, but in CI it fails."""
    program = shutil.which("Xvfb")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Xvfb is not installed (Debian: apt install xvfb)")
    out, into = os.pipe()
    width, height = SIZE
    command = [program, "-displayfd", str(into), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[into], stderr=subprocess.DEVNULL)
    os.close(into)
    before = os.environ.get("DISPLAY")
    try:
        with os.fdopen(out) as number:
            os.environ["DISPLAY"] = f":{number.readline().strip()}"
        yield os.environ["DISPLAY"]
    finally:
        if before is None:
            os.environ.pop("DISPLAY", None)
        else:
            os.environ["DISPLAY"] = before
        process.terminate()
        process.wait()
