"""Who may import whom inside capkv_edge.bench, over all imports of its modules, also those inside functions."""

from pathlib import Path

import pytest
from imports import PACKAGE, circle, imported

import capkv_edge.bench

BENCH = Path(capkv_edge.bench.__file__).parent

#: part of the bench -> the parts that it may import, beside itself
ALLOWED = {
    "kinds": set(),
    "intervals": set(),
    "random_gguf": set(),
    "run": {"kinds"},
    "tasks": set(),
    "measure": {"kinds", "intervals", "run", "tasks"},
    "report": {"kinds", "intervals"},
    "options": {"report", "run"},
    "terminal": {"report"},
    "full_run": {"measure", "options", "run", "tasks", "terminal"},
    "quick": {"intervals", "kinds", "measure", "report", "run", "tasks", "terminal"},
    "cli": {"full_run", "measure", "options", "quick", "report", "run", "tasks", "terminal"},
    "reference": {"cli", "kinds", "options", "report", "run", "tasks"},
}
#: parts that import nothing of the package outside the bench
ALONE = ("kinds", "intervals", "random_gguf", "tasks", "report", "terminal")


def part_of(name: str) -> str | None:
    """The part of the bench that a full name is in: "capkv_edge.bench.run.rows" -> "run"; None outside the bench."""
    parts = name.split(".")
    return parts[2] if parts[1:2] == ["bench"] and len(parts) > 2 else None


def faults(source: str, module: str, is_package: bool = False) -> list:
    """Imports of a module that ALLOWED and ALONE do not allow."""
    own, out = part_of(module), []
    for name in sorted(imported(source, module, is_package)):
        part = part_of(name)
        if part is None:
            outside = name.split(".")[1:2] not in ([], ["bench"])
            out += [f"{module} imports {name}"] if own in ALONE and outside else []
        elif part != own and part not in ALLOWED[own] and part in ALLOWED:
            out.append(f"{module} imports {name}")
    return out


def modules() -> list:
    """(full name, path) of all modules of the bench but its own __init__, which has no imports."""
    out = []
    for path in sorted(BENCH.rglob("*.py")):
        parts = path.relative_to(BENCH).with_suffix("").parts
        name = ".".join((PACKAGE, "bench", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        out += [(name, path)] if name != f"{PACKAGE}.bench" else []
    return out


def test_every_part_of_the_bench_is_in_the_table():
    assert {part_of(name) for name, _ in modules()} == set(ALLOWED)


@pytest.mark.parametrize("name, path", modules(), ids=[name.removeprefix(f"{PACKAGE}.bench.") for name, _ in modules()])
def test_a_module_imports_only_what_its_part_may(name, path):
    assert faults(path.read_text(encoding="utf-8"), name, path.name == "__init__.py") == []


def test_the_arrows_have_no_circle():
    assert circle(ALLOWED) == set()


@pytest.mark.parametrize(
    "module, source, fault",
    [
        ("bench.run.rows", "from ..report import summary", "bench.report"),
        ("bench.run.rows", "from .. import measure", "bench.measure"),
        ("bench.tasks.ruler", "def f():\n    import capkv_edge.bench.run.engine", "bench.run.engine"),
        ("bench.tasks.ruler", "from ...config import policies", "config"),
        ("bench.measure.speed", "from .. import terminal", "bench.terminal"),
        ("bench.measure.tune", "if True:\n    from ..report.output import render", "bench.report.output"),
        ("bench.report.plots.style", "from ...measure.speed import run", "bench.measure.speed"),
        ("bench.report.tables", "from capkv_edge.stats import KvStats", "stats"),
        ("bench.kinds", "from .run import rows", "bench.run"),
        ("bench.options", "from . import cli", "bench.cli"),
    ],
)
def test_a_wrong_import_is_found(module, source, fault):
    found = faults(source, f"{PACKAGE}.{module}")
    assert found and all(f" imports {PACKAGE}.{fault}" in one for one in found)


@pytest.mark.parametrize(
    "module, source",
    [
        ("bench.run.rows", "from ..kinds import KINDS\nimport json"),
        ("bench.report.plots.style", "from ..summary import Summary\nfrom . import draw"),
        ("bench.measure.speed", "from ... import crashes\nfrom ..run.setups import Setup"),
    ],
)
def test_a_right_import_is_no_fault(module, source):
    assert faults(source, f"{PACKAGE}.{module}") == []
