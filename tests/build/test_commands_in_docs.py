"""Every command line that a document shows is one that the program takes: its options exist, its targets and scripts are there."""

import importlib
import re
import shlex

import pytest
import typer
from documents import ROOT, commands

ROOMS = {"capkv-chat": "chat", "capkv-bench": "bench", "capkv-inspect": "inspector", "capkv-serve": "serve"}


def parsed(line: str, monkeypatch) -> None:
    """Parse a command line and run nothing. Raises what click raises for an option that does not exist."""
    words = shlex.split(line, comments=True)
    stop = next((i for i, word in enumerate(words) if word in ("|", "&&", ">", "&", "2>")), len(words))
    name, *args = words[:stop]

    def parse(build, name, args):
        command = typer.main.get_command(build())
        context = command.make_context(name, list(args))
        if hasattr(command, "commands"):
            inner = [*context._protected_args, *context.args]
            inner_name, inner_command, rest = command.resolve_command(context, inner)
            inner_command.make_context(inner_name, rest, parent=context)

    module = importlib.import_module(f"capkv_edge.{ROOMS[name]}.cli")
    monkeypatch.setattr(module.command, "run", parse)
    module.main(args)


@pytest.mark.parametrize("line", [line for line in commands() if not line.startswith("make ")])
def test_a_command_of_a_document_is_understood(line, monkeypatch):
    parsed(line, monkeypatch)


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    asked = {line.split()[1] for line in commands() if line.startswith("make ")} - {".venv/installed"}
    assert len(asked) > 5 and asked <= targets


def test_an_option_that_does_not_exist_is_found(monkeypatch):
    with pytest.raises(Exception, match="No such option"):
        parsed("capkv-chat model.gguf --budgte 512", monkeypatch)
