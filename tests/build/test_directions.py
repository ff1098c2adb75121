"""Which part of the tree uses which: includes in native/, and imports between the rooms of the package."""

import re
from pathlib import Path

import pytest
from imports import PACKAGE, circle, imported

ROOT = Path(__file__).resolve().parents[2]
NATIVE, CODE = ROOT / "native", ROOT / PACKAGE

#: part of native/ -> the files outside rooms that it is made of
PARTS = {
    "error": {"capkv-error"},
    "number": {"capkv-number"},
    "budget": {"capkv-budget"},
    "options": {"capkv-options"},
    "params": {"capkv-params", "capkv-archs"},
    "cells": {"capkv-cells"},
    "layer": {"capkv-layer"},
    "memory": {"capkv-memory"},
    "positions": {"capkv-ascending", "capkv-kept", "capkv-positions"},
    "pins": {"capkv-pins"},
    "rope": {"capkv-rope"},
    "observe": {"capkv-observe", "capkv-observe-graph"},
    "cast": {"capkv-cast"},
    "sched": {"capkv-sched"},
    "capacity": {"capkv-capacity"},
    "evict": {"capkv-evict", "capkv-evict-scores", "capkv-graph", "capkv-parallel", "capkv-reindex", "capkv-reserve", "capkv-select"},
    "state": {"capkv-state"},
    "cache": {"capkv-cache"},
    "focus": {"capkv-focus"},
    "hooks": {"capkv-hooks", "capkv-pending", "capkv-update", "capkv-state-io"},
    "api": {"capkv-api", "capkv-score"},
    "rpc": {"capkv-rpc"},
    "load": {"capkv-load"},
}
#: part of native/ -> the parts that its files include, beside itself and the public headers, so the parts that it stands on
MAY_INCLUDE = {
    "include": set(),
    "kernels": set(),
    "error": set(),
    "number": set(),
    "budget": {"number"},
    "cells": set(),
    "layer": set(),
    "memory": set(),
    "policies": {"kernels", "error"},
    "options": {"budget", "error", "number", "policies"},
    "params": {"error", "options"},
    "positions": {"layer"},
    "pins": {"params", "positions"},
    "rope": {"policies"},
    "observe": {"layer", "memory", "params", "policies", "rope"},
    "cast": {"kernels"},
    "sched": {"policies"},
    "capacity": {"kernels"},
    "evict": {"capacity", "error", "kernels", "layer", "observe", "params", "pins", "policies", "positions", "sched"},
    "state": {"evict", "memory", "observe", "pins", "positions"},
    "cache": {"evict", "observe", "params", "pins", "policies", "positions", "state"},
    "focus": {"cache", "memory"},
    "hooks": {"cache", "cast", "cells", "memory", "options"},
    "api": {"cache", "evict", "kernels", "memory", "policies"},
    "rpc": {"error"},
    "server": set(),
    "load": set(),
}

#: room of the package -> the rooms that it may import, beside itself; "" is what is in no room
MAY_IMPORT = {
    "": set(),
    "models": {""},
    "llama": {"", "models"},
    "recall": {""},
    "chat": {"", "llama", "models", "recall"},
    "inspector": {"", "llama", "models"},
    "serve": {"", "llama", "models"},
    "llm_plugin": {"", "models"},
    "bench": {"", "models", "recall"},
}


def part_of(path: str) -> str | None:
    """The part of native/ that a file is in, from a path within native/; None for a file that is not there."""
    room, _, _ = path.rpartition("/")
    stem = Path(path).stem
    return room or next((part for part, stems in PARTS.items() if stem in stems), None)


def includes(path: Path) -> set:
    """The files of native/ that a file of it includes, as paths within native/."""
    found = set()
    for name in re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
        for folder in (path.parent, NATIVE, NATIVE / "include"):
            if (folder / name).is_file():
                found.add((folder / name).relative_to(NATIVE).as_posix())
                break
    return found


SOURCES = sorted(path.relative_to(NATIVE).as_posix() for end in ("h", "cpp") for path in NATIVE.rglob(f"*.{end}"))


def test_every_file_of_the_engine_is_in_the_table():
    assert {part_of(path) for path in SOURCES} == set(MAY_INCLUDE)
    assert {Path(path).stem for path in SOURCES if "/" not in path} == set().union(*PARTS.values())


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_includes_only_what_its_part_may(path):
    used = {part_of(name) for name in includes(NATIVE / path)} - {part_of(path), "include"}
    assert used <= MAY_INCLUDE[part_of(path)]


def test_every_allowed_include_is_used():
    used = {part: set() for part in MAY_INCLUDE}
    for path in SOURCES:
        used[part_of(path)] |= {part_of(name) for name in includes(NATIVE / path)} - {part_of(path), "include"}
    assert used == MAY_INCLUDE


def test_an_include_is_found_where_the_compiler_finds_it():
    assert includes(NATIVE / "policies" / "pieces.h") == {"policies/policy.h", "kernels/kernels.h"}
    assert part_of("policies/policy.h") == "policies" and part_of("capkv-graph.h") == "evict" and part_of("new.h") is None


@pytest.mark.parametrize("table", [MAY_INCLUDE, MAY_IMPORT], ids=["includes", "imports"])
def test_the_arrows_have_no_circle(table):
    assert circle(table) == set()
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def room_of(name: str) -> str:
    """The room that a full name of the package is in: "capkv_edge.chat.loop" -> "chat", "capkv_edge.kv.KvStats" -> ""."""
    part = (name.split(".") + [""])[1]
    return part if (CODE / part / "__init__.py").is_file() and part else ""


MODULES = sorted(CODE.rglob("*.py"))


def full_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=full_name)
def test_a_room_imports_only_the_rooms_below_it(path):
    source, name = path.read_text(encoding="utf-8"), full_name(path)
    rooms = {room_of(found) for found in imported(source, name, path.name == "__init__.py") if found != PACKAGE}
    assert rooms - {room_of(name)} <= MAY_IMPORT[room_of(name)]


def test_a_wrong_import_is_found():
    found = imported("def f():\n    from ..chat import loop", "capkv_edge.llama.llama")
    assert {room_of(name) for name in found} == {"chat"}
