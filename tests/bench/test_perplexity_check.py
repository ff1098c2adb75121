"""The comparison with llama-perplexity runs the same setup on both sides, without a model."""

import argparse
from pathlib import Path

import pytest

from scripts_under_test import load_script

from capkv_edge.bench.run.setups import Setup


@pytest.mark.parametrize("name, kind", [("capkv@256", "f16"), ("capkv@256:q8_0", "q8_0")])
def test_the_tool_has_the_types_of_the_setup(name, kind, monkeypatch):
    check = load_script("checks/perplexity.py")
    commands = []

    def run(command):
        commands.append([str(part) for part in command])
        return "\n".join(f"{label}  :  1.0" for label, _ in check.LABELS.values())

    monkeypatch.setattr(check, "run", run)
    args = argparse.Namespace(tool="llama-perplexity", ctx=1024, chunks=1, threads=1)
    check.theirs(args, "text", Setup.parse(name), Path("model.gguf"))

    _, command = commands
    for option in ("--cache-type-k", "--cache-type-v"):
        assert command[command.index(option) + 1] == kind
