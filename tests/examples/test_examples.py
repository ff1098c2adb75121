"""Each example has a test, and is short enough to be read at once."""

import re
from pathlib import Path

import pytest
from examples_under_test import EXAMPLES

ROOT = EXAMPLES.parent
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_which_there_are():
    assert NAMES == ["agent", "conversations", "langchain_chat", "window"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_run_by_a_test_and_named_in_the_guide(name):
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf'load_example\("{name}"\)', tests)
    assert f"examples/{name}.py" in (ROOT / "docs" / "from-llama-cpp-python.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_about_a_hundred_lines(name):
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 140
