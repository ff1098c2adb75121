"""llama.cpp's log: printed while it is shown, and searched for what llama.cpp reports in no other way.

Each thread keeps what it was told: the errors, which say why a call failed, and the buffers of a new cache, which name its devices.
"""

import contextlib
import logging
import re
import sys
import threading
from collections import deque

from . import _upstream

_ERROR, _CONTINUED = 4, 5  # enum ggml_log_level
_FATAL = re.compile(r"(CUDA|ROCm|MUSA) error: ")  # ggml says why on this line and two more, and ends the process
_BUFFER = re.compile(r"(\S+) (?:KV|RS) buffer size = +([\d.]+) MiB")


class _Kept(threading.local):
    """What llama.cpp logged on this thread. It is kept for each thread, since several may open models at once."""

    def __init__(self):
        self.errors, self.buffers, self.level, self.interrupted = deque(maxlen=8), {}, 0, False
        self.n_fatal = 0  # lines of an error that ends the process which are still to come


_kept = _Kept()
_callback = None  # referenced for as long as llama.cpp may call it


def _take(level: int, line: str) -> None:
    _kept.level = _kept.level if level == _CONTINUED else level
    if _FATAL.match(line):
        _kept.n_fatal = 3
    if _kept.level == _ERROR:
        _kept.errors.append(line)
    elif found := _BUFFER.search(line):
        name, n_mib = found.groups()
        _kept.buffers[name] = _kept.buffers.get(name, 0.0) + float(n_mib)
    if _upstream.log_level() <= logging.DEBUG or _kept.n_fatal > 0:
        _kept.n_fatal = max(0, _kept.n_fatal - 1)
        print(line, end="", flush=True, file=sys.stderr)


def _on_failure(kind, error, trace) -> None:
    # Python may raise KeyboardInterrupt inside the callback, and no exception can leave a function that C has called
    _kept.interrupted |= kind is KeyboardInterrupt


def raise_interrupt() -> None:
    """Raise the KeyboardInterrupt of a Ctrl-C that came while a line of the log was taken on this thread.

    Call it after each call into llama.cpp that may take long.
    """
    if _kept.interrupted:
        _kept.interrupted = False
        raise KeyboardInterrupt


def show(is_shown: bool) -> None:
    """Print llama.cpp's log on stderr from now on, or do not."""
    _upstream.set_verbose(is_shown)


@contextlib.contextmanager
def hidden():
    """Do not print llama.cpp's log for as long as the block runs."""
    was_shown = _upstream.log_level() <= logging.DEBUG
    show(False)
    try:
        yield
    finally:
        show(was_shown)


def install(ffi, lib) -> None:
    """Take llama.cpp's log over from llama_cpp, whose callback, when it is not verbose, hides errors and prints warnings."""
    global _callback

    def on_line(level, text, user_data):
        _take(level, ffi.string(text).decode("utf-8", "replace"))

    _callback = ffi.callback("void (int, const char *, void *)", on_line, onerror=_on_failure)
    lib.llama_log_set(_callback, ffi.NULL)
    _upstream.keep_descriptors()


def forget() -> None:
    """Drop the errors and the buffers that were kept so far."""
    _kept.errors.clear()
    _kept.buffers.clear()


def reason(known: str = "") -> str:
    """Why the last call failed.

    Args:
        known: an error message that may be of an earlier call. It is the reason if the errors since forget() contain it.

    Returns:
        `known`, or the first error since forget() without the name of the function that logged it.
    """
    text = "".join(_kept.errors).strip()
    if known and known in text:
        return known
    first = text.split("\n")[0]
    head, _, tail = first.partition(": ")
    return (tail.strip() if tail and " " not in head else first) or "llama.cpp gave no reason"


def cache_buffers() -> dict:
    """{name of the ggml buffer: MiB} of the caches that this thread has made since forget()."""
    return dict(_kept.buffers)
