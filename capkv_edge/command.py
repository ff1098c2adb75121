"""How the commands of this package run: --version, and an error as one line on stderr and status 2 instead of a traceback."""

import os
import sys

import typer

MOST = 2**31 - 1  # of a whole number


def option(names: str, metavar: str, text: str, show_default: str | bool = True, **more):
    """A typer option.

    Args:
        names: its spellings, with slashes between them.
        show_default: what --help says of its default; True is the value itself, False says nothing.
        more: further keywords of typer.Option().
    """
    return typer.Option(*names.split("/"), metavar=metavar, help=text, show_default=show_default, **more)


def number(kind: type, name: str, text: str, least: float, most: float = MOST) -> float:
    """The number in an option's text. Raises ValueError naming option, value and range.

    Args:
        kind: int or float.
    """
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise ValueError(f"{name} = {text}: allowed is {'a number' if kind is float else 'a whole number'}, {least} to {most}")
    return value


def version_option(name: str):
    """The --version option of a command: prints the version and exits."""

    def say(wanted: bool) -> None:
        if wanted:
            from . import __version__

            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    return typer.Option("--version", callback=say, is_eager=True, help="print the version and exit")


def _leave_pipe() -> int:
    """Drop what still waits to be written, since nobody reads the pipe any more; returns the exit status."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        try:
            stream = sys.stdout if descriptor == 1 else sys.stderr
            stream.flush()
        except (AttributeError, OSError, ValueError):
            os.dup2(devnull, descriptor)
    return 0


def run(make_app, name: str, args=None) -> int:
    """Run the typer app that make_app() makes; returns the exit status: 0, 2 after an error, 130 when interrupted."""

    def fail(message: str) -> int:
        if sys.stderr is not None:
            print(f"{name}: error: " + " ".join(message.split()), file=sys.stderr)
        return 2

    try:
        return make_app()(args=args, standalone_mode=False, prog_name=name) or 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as leave:
        if not isinstance(leave.__context__, BrokenPipeError):
            raise
        return _leave_pipe()  # typer and rich exit with status 1
    except BrokenPipeError:
        return _leave_pipe()
    except MemoryError:
        return fail("not enough memory")
    except (ImportError, OSError, RuntimeError, ValueError) as err:
        return fail(str(err) or type(err).__name__)
    except Exception as err:
        if type(err).__name__ == "Abort":
            return 130
        if hasattr(err, "format_message"):  # an error of click or typer: an option is wrong
            return fail(err.format_message())
        raise
