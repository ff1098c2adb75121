"""The options of a KV budget on a command line: --NAME for each entry of the native option table."""

import inspect
from typing import Annotated

import typer

from . import command
from .config import options, policies

#: what the commands take beside what is in the native table
MORE_HELP = {"policy": "; 'help' lists them", "budget": "; 'auto' is the largest that fits the memory"}


def with_table(function, defaults: dict, leave_out=()):
    """A typer command, with a parameter for each entry of the table in the place of its **kv, after its first parameter.

    Args:
        defaults: {name: text} of the defaults that --help shows where the command has its own.
        leave_out: names that the command has as options of its own.
    """
    first, *others, _ = inspect.signature(function).parameters.values()
    rows = [_parameter(row, defaults.get(row.name, row.default)) for row in options().values() if row.name not in leave_out]
    function.__signature__ = inspect.Signature([first, *rows, *others])
    return function


def _parameter(row, default: str | None) -> inspect.Parameter:
    if row.is_switch:
        kind, value, spec = bool, False, typer.Option(f"--{row.name}", help=row.help)
    else:
        text = f"{row.help}: {row.range}" + MORE_HELP.get(row.name, "")
        kind, value, spec = str | None, None, command.option(f"--{row.name}", row.metavar, text, show_default=default)
    return inspect.Parameter(row.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=Annotated[kind, spec])


def list_policies() -> int:
    """Print what --policy help shows; returns the exit status."""
    for name, what in policies().items():
        typer.echo(f"{name:<12} {what}")
    return 0


def keywords(given: dict) -> dict:
    """Llama's keywords for what a command was given: kv_NAME, and None where it was given nothing."""
    return {f"kv_{name}": None if value is False else value for name, value in given.items()}
