"""The header of a GGUF file, read with ggml's own reader: no tensor is loaded."""

import ctypes
import os
from dataclasses import dataclass
from functools import cache

from .. import _log
from .._upstream import library

_STRING = 8  # enum gguf_type
_NUMBERS = {4: ("u32", ctypes.c_uint32), 5: ("i32", ctypes.c_int32), 10: ("u64", ctypes.c_uint64), 11: ("i64", ctypes.c_int64)}


class _Params(ctypes.Structure):  # struct gguf_init_params
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@dataclass(frozen=True)
class Header:
    """What a list of models shows of a file; "" and 0 for what it does not say."""

    arch: str  #: the architecture, by llama.cpp's name
    n_ctx_train: int  #: trained length in tokens
    size_label: str  #: number of parameters, such as "8B"


def read(path) -> Header | None:
    """The header of a file; None if it is none of a model.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            return None
    try:
        lib = _functions()
    except AttributeError:  # not on Windows, where a library does not show what the libraries that it loads have
        return Header("", 0, "")
    with _log.hidden():
        gguf = lib.gguf_init_from_file(os.fsencode(path), _Params(True, None))
    if not gguf:
        return None
    try:
        arch = str(_value(lib, gguf, "general.architecture") or "")
        n_ctx = _value(lib, gguf, f"{arch}.context_length")
        label = _value(lib, gguf, "general.size_label")
        return Header(arch, n_ctx if isinstance(n_ctx, int) else 0, label if isinstance(label, str) else "") if arch else None
    finally:
        lib.gguf_free(gguf)


@cache
def _functions():
    lib = library()
    handle, key = ctypes.c_void_p, ctypes.c_int64
    lib.gguf_init_from_file.argtypes, lib.gguf_init_from_file.restype = [ctypes.c_char_p, _Params], handle
    lib.gguf_free.argtypes, lib.gguf_free.restype = [handle], None
    lib.gguf_find_key.argtypes, lib.gguf_find_key.restype = [handle, ctypes.c_char_p], key
    lib.gguf_get_kv_type.argtypes, lib.gguf_get_kv_type.restype = [handle, key], ctypes.c_int
    lib.gguf_get_val_str.argtypes, lib.gguf_get_val_str.restype = [handle, key], ctypes.c_char_p
    for name, kind in _NUMBERS.values():
        get = getattr(lib, f"gguf_get_val_{name}")
        get.argtypes, get.restype = [handle, key], kind
    return lib


def _value(lib, gguf, name: str):
    """A text or a whole number of the header; None if it has no such key, or one of another type."""
    key = lib.gguf_find_key(gguf, name.encode())
    kind = lib.gguf_get_kv_type(gguf, key) if key >= 0 else None
    if kind == _STRING:
        return lib.gguf_get_val_str(gguf, key).decode("utf-8", "replace")
    return getattr(lib, f"gguf_get_val_{_NUMBERS[kind][0]}")(gguf, key) if kind in _NUMBERS else None
