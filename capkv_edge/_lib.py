"""Find the patched llama.cpp libraries, make llama_cpp load them, and bind capkv.h to the same ones.

Knows nothing of models or contexts: a context crosses over as the address that llama_cpp holds.
"""

import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent
_BUILD = "`pip install .` in the capkv-edge checkout builds them"
_NAMES = {"win32": ("llama.dll", "libllama.dll"), "darwin": ("libllama.dylib", "libllama.so")}.get(sys.platform, ("libllama.so",))


def _library(folder: Path) -> Path | None:
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def _candidates():
    """(folder of libraries, capkv.h that belongs to them), the preferred ones first.

    In the checkout's own folder Python takes `capkv_edge` from there, where there are no libraries: those of the installed
    package do as well, or those that were built in `build`.
    """
    yield _PACKAGE / "lib", _PACKAGE / "include" / "capkv.h"
    try:
        installed = Path(distribution("capkv-edge").locate_file("capkv_edge"))
        yield installed / "lib", installed / "include" / "capkv.h"
    except PackageNotFoundError:
        pass
    for name in ("wheel", "dev"):
        yield _CHECKOUT / "build" / name / "lib", _CHECKOUT / "native" / "include" / "capkv.h"


def _fault(folder: Path, header: Path) -> str:
    """Why the libraries in a folder cannot be used by this package; "" if they can."""
    library, own = _library(folder), _CHECKOUT / "native" / "include" / "capkv.h"
    if library is None or not header.is_file():
        return f"no {_NAMES[0]} in {folder}" if library is None else f"no {header}"
    if own.is_file() and header.read_bytes() != own.read_bytes():
        return f"{folder} is of another version: its capkv.h is not the checkout's"
    if header == own and library.stat().st_mtime < own.stat().st_mtime:
        return f"{folder} is older than {own}"
    return ""


def _find() -> tuple:
    """(folder, header, faults): the first folder without a fault; the package's own where all have one."""
    if os.environ.get("CAPKV_LIB_PATH"):
        folder = Path(os.environ["CAPKV_LIB_PATH"]).absolute()
        headers = [header for _, header in _candidates() if header.is_file()]
        return folder, headers[0] if headers else None, [] if _library(folder) else [f"no {_NAMES[0]} in {folder}"]
    found, faults = list(_candidates()), []
    for folder, header in found:
        fault = _fault(folder, header)
        if not fault:
            return folder, header, []
        faults += [] if fault in faults else [fault]
    return *found[0], faults


def lib_dir() -> Path:
    """The folder of the libraries: $CAPKV_LIB_PATH where set, else the first that fits of `lib` in this package, `lib` of the
    installed package, and `build/wheel/lib` and `build/dev/lib` of the checkout that this package is in."""
    return _find()[0]


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


def _declarations(header: Path | None) -> str:
    if header is None or not header.is_file():
        raise ImportError(f"no capkv.h in {_PACKAGE / 'include'}: the installation is damaged; {_BUILD}")
    return header.read_text(encoding="utf-8").partition("// CDEF BEGIN")[2].partition("// CDEF END")[0]


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
    where, header, faults = _find()
    if faults:
        raise ImportError(f"{'; '.join(faults)}: {_BUILD}; a build elsewhere is named by CAPKV_LIB_PATH")

    ffi = FFI()
    ffi.cdef("struct llama_context;\n" + _declarations(header))
    ffi.cdef("void llama_log_set(void (*callback)(int level, const char * text, void * user_data), void * user_data);")

    try:
        import llama_cpp.llama_cpp as native
    except (RuntimeError, AttributeError) as err:
        raise ImportError(f"cannot use the libraries in {where}: {err}; {_BUILD}") from err

    lib = ffi.dlopen(native._lib._name)
    if not hasattr(lib, "capkv_default_params"):
        raise ImportError(f"{native._lib._name} is a llama.cpp without a KV budget; {_BUILD}")

    from . import _log

    _log.install(ffi, lib)
    return ffi, lib


def last_error() -> str:
    """What the last failed call into capkv.h on this thread has to say; may be empty."""
    ffi, lib = load()
    return ffi.string(lib.capkv_last_error()).decode("utf-8", "replace")
