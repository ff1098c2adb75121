"""cmake/extract_functions.py, which copies the functions that tests compile alone out of llama.cpp."""

import subprocess
import sys
from pathlib import Path

import pytest
from extract_functions import NotFound, extract

ROOT = Path(__file__).resolve().parents[2]

SOURCE = """\
bool has_op(struct device * dev, const tensor * op);

static bool has_op_of_old(int a) {
    return a > 0;
}

const struct props * get_props(device * dev) {
    return &dev->props;
}

bool has_op(
        struct device * dev,
        const tensor * op) {
    if (op) {
        return has_op_of_old(1);
    }
    return false;
}
"""


def test_a_function_is_copied_from_its_first_line_to_its_last_brace():
    assert extract(SOURCE, "has_op", "a.m") == SOURCE[SOURCE.index("bool has_op(\n") : -1]
    assert extract(SOURCE, "has_op_of_old", "a.m").splitlines() == ["static bool has_op_of_old(int a) {", "    return a > 0;", "}"]
    assert extract(SOURCE, "get_props", "a.m").startswith("const struct props * get_props(")


@pytest.mark.parametrize(("text", "number"), [(SOURCE.replace("has_op(", "supports(", 2), 0), (SOURCE + SOURCE, 2)])
def test_a_function_that_was_renamed_or_is_there_twice_is_named_with_what_to_do(text, number):
    with pytest.raises(NotFound, match=rf"has {number} functions has_op in a.m, not one: .* cmake/backend_rules.cmake"):
        extract(text, "has_op", "a.m")


def test_the_build_step_ends_with_that_text(tmp_path):
    (tmp_path / "a.m").write_text(SOURCE)

    def run(source, name):
        command = [sys.executable, ROOT / "cmake" / "extract_functions.py", tmp_path / source, tmp_path / "out" / "a.inc", name]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("a.m", "has_op").returncode == 0
    assert (tmp_path / "out" / "a.inc").read_text() == extract(SOURCE, "has_op", "a.m") + "\n"
    done = run("a.m", "supports_op")
    assert done.returncode == 1 and "capkv: the pinned llama.cpp has 0 functions supports_op in a.m" in done.stderr
    done = run("b.m", "has_op")
    assert done.returncode == 1 and "the pinned llama.cpp has no file b.m" in done.stderr
