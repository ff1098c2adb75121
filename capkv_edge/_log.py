"""llama.cpp's log: shown when a Llama is verbose. What a thread was last told is kept: errors, so that an exception can name the
reason, and the buffers of the cache, so that the devices that hold it can be named."""

import logging
import re
import sys
import threading
from collections import deque

from llama_cpp import _internals, llama
from llama_cpp._logger import logger

_ERROR, _CONTINUED = 4, 5  # enum ggml_log_level
_BUFFER = re.compile(r"(\S+) (?:KV|RS) buffer size = +([\d.]+) MiB")


class _Heard(threading.local):
    """What llama.cpp said on one thread: models may be opened on several at once."""

    def __init__(self):
        self.errors, self.buffers, self.level, self.interrupted = deque(maxlen=8), {}, 0, False


_heard = _Heard()
_callback = None  # lives as long as llama.cpp may call it


def _hear(level: int, line: str) -> None:
    _heard.level = _heard.level if level == _CONTINUED else level
    if _heard.level == _ERROR:
        _heard.errors.append(line)
    elif found := _BUFFER.search(line):
        name, n_mib = found.groups()
        _heard.buffers[name] = _heard.buffers.get(name, 0.0) + float(n_mib)
    if logger.level <= logging.DEBUG:
        print(line, end="", flush=True, file=sys.stderr)


def _on_failure(kind, error, trace) -> None:
    # Python looks for Ctrl-C in here too, and no exception can leave a function that C has called
    _heard.interrupted |= kind is KeyboardInterrupt


def raise_interrupt() -> None:
    """Raise the KeyboardInterrupt of a Ctrl-C that came while this thread was being told something; to be called after what may
    take long."""
    if _heard.interrupted:
        _heard.interrupted = False
        raise KeyboardInterrupt


class _Open:
    """Takes the place of llama_cpp's redirection of the descriptors of stdout and stderr while a model is opened. Two of them at
    once left both at /dev/null; and there is nothing to hide, since all that llama.cpp has to say comes through its log."""

    def __init__(self, disable=True):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def install(ffi, lib) -> None:
    """Take llama.cpp's log over from llama_cpp, whose callback hides errors and shows warnings when it is told to be quiet."""
    global _callback

    def on_line(level, text, user_data):
        _hear(level, ffi.string(text).decode("utf-8", "replace"))

    _callback = ffi.callback("void (int, const char *, void *)", on_line, onerror=_on_failure)
    lib.llama_log_set(_callback, ffi.NULL)
    llama.suppress_stdout_stderr = _internals.suppress_stdout_stderr = _Open


def forget() -> None:
    """Drop what was kept so far."""
    _heard.errors.clear()
    _heard.buffers.clear()


def reason(known: str = "") -> str:
    """Why the last call failed: `known` (an error that may be of an earlier call) if the errors since forget() repeat it, else
    the first of them without the name of the function that logged it."""
    text = "".join(_heard.errors).strip()
    if known and known in text:
        return known
    first = text.split("\n")[0]
    head, _, tail = first.partition(": ")
    return (tail.strip() if tail and " " not in head else first) or "llama.cpp gave no reason"


def cache_buffers() -> dict:
    """{name of the ggml buffer: MiB} of the caches that this thread has made since forget()."""
    return dict(_heard.buffers)
