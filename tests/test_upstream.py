"""_upstream.py: the only module that touches private names of llama_cpp, and its table says which."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import llama_cpp
import pytest
from driving import BUDGET
from llama_cpp import _internals

import capkv_edge
from capkv_edge import _upstream

PACKAGE = Path(capkv_edge.__file__).parent
ROWS = [row.partition("|")[0] for row in re.findall(r"^\| (`.*)$", _upstream.__doc__, re.MULTILINE)]
TABLE = re.findall(r"`([^`]+)`", " ".join(ROWS))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def private_names(tree) -> set:
    """Private names that a module defines, sets or reads of an object."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return set(filter(is_private, found))


SOURCES = sorted(Path(llama_cpp.__file__).parent.glob("*.py"))
THEIRS = {path.stem for path in SOURCES if is_private(path.stem)}.union(*(private_names(ast.parse(path.read_text())) for path in SOURCES))


def touched(source: str) -> set:
    """Names private to llama_cpp that a module reads or sets: attributes, imports, and names given to getattr() and its kind."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import):
            found.update(part for alias in node.names if alias.name.startswith("llama_cpp") for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.startswith("llama_cpp"):
            found.update(node.module.split("."), (alias.name for alias in node.names))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("getattr", "setattr", "hasattr", "delattr"):
            found.update(arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant))
        elif isinstance(node, ast.ClassDef):  # a method of that name would replace upstream's
            found.update(part.name for part in node.body if isinstance(part, ast.FunctionDef))
    return found & THEIRS


def test_no_other_module_touches_a_private_name():
    found = {path.relative_to(PACKAGE).as_posix(): touched(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert found.pop("_upstream.py") and len(found) > 50
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source, name",
    [
        ("llm._ctx.decode(batch)", "_ctx"),
        ("self._seed = 1", "_seed"),
        ("from llama_cpp import _internals as inside", "_internals"),
        ("from llama_cpp._logger import set_verbose", "_logger"),
        ("import llama_cpp._logger", "_logger"),
        ("from llama_cpp.llama_cpp import _lib", "_lib"),
        ("llama_cpp.llama_cpp._lib", "_lib"),
        ("getattr(llm, '_batch', None)", "_batch"),
        ("class A:\n    def _scores(self): pass", "_scores"),
    ],
)
def test_one_that_does_is_found(source, name):
    assert touched(source) == {name}


def test_our_own_private_names_are_no_fault():
    assert touched("from . import _lib, _log\nfrom ._lib import load\nself._kept_logits = _lib.load()\nllm.__class__") == set()


def test_the_table_lists_all_that_is_touched():
    listed = {name.rpartition(".")[2] for name in TABLE} | {name.partition(".")[0] for name in TABLE}
    assert len(ROWS) == 16
    assert touched(inspect.getsource(_upstream)) == {name for name in listed if is_private(name)}


@pytest.mark.parametrize("name", TABLE)
def test_what_the_table_lists_is_in_the_pinned_release(name, make_llama, tiny_llama):
    if name.startswith('"'):
        assert name.strip('"') in inspect.getsource(_internals)
        return
    home, _, attribute = name.partition(".")
    owner = make_llama(tiny_llama, **BUDGET) if home == "Llama" else importlib.import_module(f"llama_cpp.{home}")
    assert hasattr(owner, attribute)
    if home == "Llama":
        assert attribute in inspect.getsource(llama_cpp.Llama)


def test_the_messages_are_those_that_the_table_lists():
    assert [name.strip('"') for name in TABLE if name.startswith('"')] == [_upstream.NO_CONTEXT, _upstream.NO_MODEL]
