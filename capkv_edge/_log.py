"""llama.cpp's log: shown when a Llama is verbose. What a thread was last told is kept: errors, so that an exception can name the
reason, and the buffers of the cache, so that the devices that hold it can be named."""

import ctypes
import logging
import re
import sys
import threading
from collections import deque

import llama_cpp.llama_cpp as native
from llama_cpp import _internals, llama
from llama_cpp._logger import logger

_ERROR, _CONTINUED = 4, 5  # enum ggml_log_level
_BUFFER = re.compile(r"(\S+) (?:KV|RS) buffer size = +([\d.]+) MiB")


class _Heard(threading.local):
    """What llama.cpp said on one thread: models may be opened on several at once."""

    def __init__(self):
        self.errors, self.buffers, self.level = deque(maxlen=8), {}, 0


_heard = _Heard()


@native.llama_log_callback
def _on_line(level, text, user_data):
    _heard.level = _heard.level if level == _CONTINUED else level
    line = text.decode("utf-8", "replace")
    if _heard.level == _ERROR:
        _heard.errors.append(line)
    elif found := _BUFFER.search(line):
        name, n_mib = found.groups()
        _heard.buffers[name] = _heard.buffers.get(name, 0.0) + float(n_mib)
    if logger.level <= logging.DEBUG:
        print(line, end="", flush=True, file=sys.stderr)


class _Open:
    """Takes the place of llama_cpp's redirection of the descriptors of stdout and stderr while a model is opened. Two of them at
    once left both at /dev/null; and there is nothing to hide, since all that llama.cpp has to say comes through its log."""

    def __init__(self, disable=True):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def install() -> None:
    """Take llama.cpp's log over from llama_cpp, whose callback hides errors and shows warnings when it is told to be quiet."""
    native.llama_log_set(_on_line, ctypes.c_void_p(0))
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
