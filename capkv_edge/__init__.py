"""A KV cache of fixed size for llama.cpp: contexts as long as the model allows, in the memory of a few hundred tokens.

Importing this package decides which llama.cpp libraries `llama_cpp` loads, so import it before `llama_cpp`. The libraries are
opened when one of the names in __all__ is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import _lib

if TYPE_CHECKING:  # at run time these are imported when they are first used
    from .config import CapkvConfig, policies
    from .kv import KvStats
    from .llama.llama import Llama

try:
    __version__ = version("capkv-edge")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = _lib.build_stamp()["version"] or "0+unknown"

_lib.claim()

_HOMES = {"Llama": ".llama.llama", "CapkvConfig": ".config", "policies": ".config", "KvStats": ".kv"}

__all__ = ["CapkvConfig", "KvStats", "Llama", "__version__", "policies"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        _lib.load()
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
