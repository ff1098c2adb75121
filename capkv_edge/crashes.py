"""Messages about a program of ours that a signal ended: its name, the signal, and what to do.

As a command it runs a program, prints the message, and exits with the status that a shell would give:

    python capkv_edge/crashes.py PROGRAM [ARGUMENTS ...]

It imports nothing of the package, so that a process may use it before it chooses its libraries.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

# signals that somebody sends to end a program: there is no fault to report
_SENT = {"SIGHUP", "SIGINT", "SIGPIPE", "SIGQUIT", "SIGTERM"}

_CAUSES = {
    "SIGKILL": "Usually the system sends it when memory is short: try a smaller model, context or batch.",
    "SIGILL": "Usually it was built for another processor: build it anew on this one (make clean, then the same command).",
}

#: what to do, where there is room for a part of a line
MORE = "capkv-chat MODEL --verbose and a debug build (make debug) tell more"

_WHAT_TO_DO = """\
  What it did before:  capkv-chat MODEL --verbose prints llama.cpp's log
  Where it happened:   make debug builds the libraries with symbols; with them, in a debugger:
                       CAPKV_LIB_PATH=build/debug/lib LD_LIBRARY_PATH=build/debug/lib \\
                       gdb -batch -ex run -ex bt --args {command}
  Then report it in capkv-edge's issues, with what both print, the model's name and the processor's."""


def signal_of(status: int) -> str | None:
    """Name of the signal in a return code of `subprocess`, "SIGSEGV" for -11; None if none ended the process."""
    if status >= 0xC0000000:  # Windows ends a process with the number of its exception
        return f"exception {status:#x}"
    if status >= 0:
        return None
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def exit_status(status: int) -> int:
    """The exit status that a shell gives to a return code of `subprocess`: 139 for -11."""
    return 128 - status if status < 0 else status


def name_of(command: list) -> str:
    """The name of the program that a command runs; where that is Python, the name of the script or the module."""
    words = [str(word) for word in command]
    while len(words) > 1 and (words[0] == "env" or "=" in words[0]):
        words.pop(0)
    name = words[0]
    if Path(name).name.startswith("python") and len(words) > 1:
        name = words[2] if words[1] == "-m" and len(words) > 2 else words[1]
    return Path(name).name


def describe(command: list, status: int) -> str:
    """"NAME was ended by SIGSEGV (Segmentation fault)"; empty if no signal ended it."""
    name = signal_of(status)
    if name is None:
        return ""
    text = signal.strsignal(-status) if name.startswith("SIG") else None
    return f"{name_of(command)} was ended by {name}" + (f" ({text})" if text else "")


def explain(command: list, status: int) -> str:
    """The same and what to do, in several lines; empty if no signal ended it."""
    said, name = describe(command, status), signal_of(status)
    if not said or name in _SENT:
        return said
    words = [str(word) for word in command]
    try:
        with open(words[0], "rb") as file:
            is_script = file.read(2) == b"#!"
    except OSError:
        is_script = False
    shown = shlex.join([sys.executable, *words] if is_script else words)
    return "\n".join([said, *(f"  {_CAUSES[key]}" for key in (name,) if key in _CAUSES), _WHAT_TO_DO.format(command=shown)])


def call(command: list, **options) -> int:
    """Run a command as `subprocess.call` does; if a signal ended it, print explain() on stderr. Returns the status of a shell."""
    status = subprocess.call([str(word) for word in command], **options)
    if said := explain(command, status):
        print(f"capkv: {said}", file=sys.stderr, flush=True)
    return exit_status(status)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.stdout.flush()
    try:
        sys.exit(call(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"capkv: {sys.argv[1]}: {os.strerror(error.errno)}")
