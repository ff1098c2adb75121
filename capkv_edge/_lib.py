"""Finds the patched llama.cpp libraries, makes llama_cpp load them, and binds capkv.h to the same ones.

Knows nothing of models or contexts: a context is passed to capkv.h as the address that llama_cpp holds.
"""

import json
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
    """(folder of libraries, the capkv.h that they were built with), in the order in which they are tried.

    When Python runs in the checkout it imports the `capkv_edge` that lies there, which has no libraries. It then takes those of
    the installed package, or those that were built in `build`.
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
    """(folder, header, faults): the first folder without a fault. Where all have one: the package's own, and the faults."""
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
    """The folder of the libraries: $CAPKV_LIB_PATH where it is set. Else the first that can be used of these: `lib` in this
    package, `lib` in the installed package, `build/wheel/lib` and `build/dev/lib` in the checkout that holds this package."""
    return _find()[0]


def build_stamp() -> dict:
    """What the build wrote beside the libraries: {commit, version, date}, texts or None; all None where it wrote nothing.

    The commit has "-dirty" at its end where a source differed from it, and is None for sources outside a checkout."""
    try:
        found = json.loads((lib_dir() / "capkv-build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    return {name: found.get(name) for name in ("commit", "version", "date")}


def claim() -> None:
    """Point llama_cpp at our libraries, before it is imported.

    Raises:
        ImportError: llama_cpp was imported before, with other libraries.
    """
    where = lib_dir()
    if "llama_cpp.llama_cpp" in sys.modules:
        from ._upstream import library_path

        loaded = library_path()
        if loaded.resolve().parent != where.resolve():
            raise ImportError(
                f"llama_cpp was imported before capkv_edge and has loaded {loaded}, which is not the library in {where}. "
                "A process can hold only one llama.cpp: import capkv_edge first."
            )
    os.environ["LLAMA_CPP_LIB_PATH"] = str(where)


def _declarations(header: Path | None) -> str:
    if header is None or not header.is_file():
        raise ImportError(f"no capkv.h in {_PACKAGE / 'include'}: the installation is damaged; {_BUILD}")
    return header.read_text(encoding="utf-8").partition("// CDEF BEGIN")[2].partition("// CDEF END")[0]


@cache
def load():
    """Open the libraries, once in a process.

    Returns:
        (ffi, lib): cffi's FFI with the declarations of capkv.h, and the libllama that llama_cpp uses.

    Raises:
        ImportError: the libraries are missing, cannot be loaded, or are a llama.cpp without KV budgets.
    """
    from cffi import FFI

    claim()
    where, header, faults = _find()
    if faults:
        raise ImportError(f"{'; '.join(faults)}: {_BUILD}; a build elsewhere is named by CAPKV_LIB_PATH")

    ffi = FFI()
    ffi.cdef("struct llama_context;\n" + _declarations(header))
    ffi.cdef("void llama_backend_init(void);")
    ffi.cdef("void llama_log_set(void (*callback)(int level, const char * text, void * user_data), void * user_data);")

    try:
        from ._upstream import library_path
    except (RuntimeError, AttributeError) as err:
        raise ImportError(f"cannot use the libraries in {where}: {err}; {_BUILD}") from err

    path = str(library_path())
    lib = ffi.dlopen(path)
    if not hasattr(lib, "capkv_default_params"):
        raise ImportError(f"{path} is a llama.cpp without a KV budget; {_BUILD}")

    from . import _log

    _log.install(ffi, lib)
    with _log.hidden():  # it names each backend before anybody could ask for silence
        lib.llama_backend_init()  # opens those beside libllama, where they are libraries of their own
    if lib.capkv_n_devices() == 0:
        raise ImportError(f"no backend of ggml in {where} can run on this processor; {_BUILD}")
    return ffi, lib


def last_error() -> str:
    """The message of the last call to a function of capkv.h that failed on this thread; may be empty."""
    ffi, lib = load()
    return ffi.string(lib.capkv_last_error()).decode("utf-8", "replace")
