"""What type checkers are told of Llama()."""

import inspect
import subprocess
import sys
from importlib.resources import files
from typing import get_type_hints

import llama_cpp
import pytest

from capkv_edge import Llama
from capkv_edge.config import options
from capkv_edge.llama import keywords

PROGRAM = """
from capkv_edge import KvStats, Llama

llm = Llama("model.gguf", kv_budget="10%", n_batch=64, verbose=False)
stats: KvStats = llm.kv_stats()
share: float = float(llm.kv_kept()[0])
tokens: list[int] = llm.tokenize(b"a")
pins: list[tuple[int, int]] = llm.pins
{line}
"""


def test_the_keywords_are_those_that_llama_takes():
    known = set(keywords.Keywords.__annotations__)
    assert known == {name for name in inspect.signature(Llama).parameters if name not in code_names()}
    assert {name for name in known if name.startswith("kv_")} - {"kv_overrides"} == {f"kv_{name}" for name in options()}


def code_names() -> set:
    """The parameters that Llama.__init__ names itself."""
    code = Llama.__init__.__code__
    return set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])


def test_their_types_are_upstreams():
    ours = keywords.Keywords.__annotations__
    theirs = get_type_hints(llama_cpp.Llama.__init__)
    plain = {name: hint for name, hint in theirs.items() if name in ours and hint in (int, float, bool, str)}
    assert len(plain) > 15
    declared = {name: getattr(ours[name], "__forward_arg__", ours[name]) for name in plain}
    assert declared == {name: hint.__name__ for name, hint in plain.items()}


def test_the_package_says_that_it_has_types():
    assert files("capkv_edge").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "Success"),
        ('Llama("model.gguf", kv_buget=1024)', 'Unexpected keyword argument "kv_buget" for "Llama"'),
        ("llm.pin(0, stats)", 'Argument 2 to "pin" of "KvBudget" has incompatible type "KvStats"; expected "int"'),
    ],
)
def test_a_type_checker_sees_them(tmp_path, line, message):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM.format(line=line))
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path.parent / "mypy"), "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert message in done.stdout and done.returncode == (message != "Success"), done.stdout
