"""llama.cpp's log: shown when a Llama is verbose, and its last errors kept so that an exception can name the reason."""

import ctypes
import logging
import sys
from collections import deque

import llama_cpp.llama_cpp as native
from llama_cpp._logger import logger

_ERROR, _CONTINUED = 4, 5  # enum ggml_log_level

_errors = deque(maxlen=8)
_level = 0


@native.llama_log_callback
def _on_line(level, text, user_data):
    global _level
    _level = _level if level == _CONTINUED else level
    line = text.decode("utf-8", "replace")
    if _level == _ERROR:
        _errors.append(line)
    if logger.level <= logging.DEBUG:
        print(line, end="", flush=True, file=sys.stderr)


def install() -> None:
    """Take llama.cpp's log over from llama_cpp, whose callback hides errors and shows warnings when it is told to be quiet."""
    native.llama_log_set(_on_line, ctypes.c_void_p(0))


def forget() -> None:
    """Drop the errors kept so far."""
    _errors.clear()


def reason(known: str = "") -> str:
    """Why the last call failed: `known` (an error that may be of an earlier call) if the errors since forget() repeat it, else
    the first of them without the name of the function that logged it."""
    text = "".join(_errors).strip()
    if known and known in text:
        return known
    first = text.split("\n")[0]
    head, _, tail = first.partition(": ")
    return (tail.strip() if tail and " " not in head else first) or "llama.cpp gave no reason"
