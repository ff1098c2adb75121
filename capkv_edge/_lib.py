"""Find the patched llama.cpp libraries, make llama_cpp load them, and bind capkv.h to the same ones.

Knows nothing of models or contexts: a context crosses over as the address that llama_cpp holds.
"""

import os
import sys
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUILD = "`pip install .` in the capkv-edge checkout builds them"
_NAMES = {"win32": ("llama.dll", "libllama.dll"), "darwin": ("libllama.dylib", "libllama.so")}


def lib_dir() -> Path:
    """The folder of the libraries: $CAPKV_LIB_PATH where set, else `lib` in the package."""
    return Path(os.environ.get("CAPKV_LIB_PATH") or _PACKAGE / "lib").absolute()


def claim() -> None:
    """Point llama_cpp at our libraries, before it is imported.

    Raises:
        ImportError: llama_cpp was imported already, with other libraries.
    """
    where = lib_dir()
    loaded = getattr(sys.modules.get("llama_cpp.llama_cpp"), "_lib", None)
    if loaded is not None and Path(loaded._name).resolve().parent != where.resolve():
        raise ImportError(
            f"llama_cpp was imported before capkv_edge and has loaded {loaded._name}, which is not the library in {where}. "
            "A process can hold only one llama.cpp: import capkv_edge first."
        )
    os.environ["LLAMA_CPP_LIB_PATH"] = str(where)


def _header() -> str:
    for folder in (_PACKAGE / "include", _PACKAGE.parent / "native" / "include"):
        path = folder / "capkv.h"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            return text.partition("// CDEF BEGIN")[2].partition("// CDEF END")[0]
    raise ImportError(f"no capkv.h in {_PACKAGE / 'include'}: the installation is damaged; {_BUILD}")


@cache
def load():
    """Open the libraries once.

    Returns:
        (ffi, lib): cffi's view of capkv.h, on the libllama that llama_cpp uses.

    Raises:
        ImportError: the libraries are missing, cannot be loaded, or know no KV budget.
    """
    from cffi import FFI

    claim()
    where = lib_dir()
    names = _NAMES.get(sys.platform, ("libllama.so",))
    if not any((where / name).is_file() for name in names):
        raise ImportError(f"no {names[0]} in {where}: {_BUILD}; a build elsewhere is named by CAPKV_LIB_PATH")

    ffi = FFI()
    ffi.cdef("struct llama_context;\n" + _header())

    try:
        import llama_cpp.llama_cpp as native
    except (RuntimeError, AttributeError) as err:
        raise ImportError(f"cannot use the libraries in {where}: {err}; {_BUILD}") from err

    lib = ffi.dlopen(native._lib._name)
    if not hasattr(lib, "capkv_default_params"):
        raise ImportError(f"{native._lib._name} is a llama.cpp without a KV budget; {_BUILD}")

    from . import _log

    _log.install()
    return ffi, lib


def last_error() -> str:
    """What the last failed call into capkv.h on this thread has to say; may be empty."""
    ffi, lib = load()
    return ffi.string(lib.capkv_last_error()).decode("utf-8", "replace")
