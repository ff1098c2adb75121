"""What a row says about model, libraries and machine, so that its measurement can be repeated."""

import hashlib
import platform
import re
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import llama_cpp

from ... import __version__, _lib, devices
from ..._upstream import library_path

#: the libraries that compute: not llama-server's, which a package may have or not
_LIBRARIES = re.compile(r"(lib)?(llama|ggml[\w.-]*)\.(so|dylib|dll)")

#: fields on which figures depend beside the measurement itself: a row that differs in one was measured with something else
ORIGIN = ("lib", "backends", "device", "n_threads", "n_gpu_layers")


@cache
def _build() -> tuple:
    """(digest of the libraries, what llama.cpp says of its build)."""
    lib = library_path()
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(lib.parent.iterdir()):
        if _LIBRARIES.fullmatch(path.name):
            digest.update(path.name.encode() + path.read_bytes())
    info = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return digest.hexdigest(), " ".join(info.split())


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(engine) -> str:
    """The name of what computes: the GPU where layers of the model are on one, else the processor."""
    return (devices.gpu_name() if engine.n_gpu_layers else "") or _cpu()


@cache
def _devices() -> tuple:
    ffi, lib = _lib.load()
    return tuple(ffi.string(lib.capkv_get_device(i)).decode() for i in range(lib.capkv_n_devices()))


def origin_fields(engine) -> dict:
    """The fields in ORIGIN."""
    return dict(
        lib=_build()[0],
        backends=list(_devices()),
        device=machine(engine),
        n_threads=engine.n_threads,
        n_gpu_layers=engine.n_gpu_layers,
    )


def engine_fields(engine) -> dict:
    """The fields that all rows measured with an engine share."""
    stamp = _lib.build_stamp()
    return dict(
        model=engine.path.name,
        model_type=engine.type,
        model_hash=engine.hash,
        **origin_fields(engine),
        pin=f"llama_cpp_python {llama_cpp.__version__}",
        version=__version__,
        commit=stamp["commit"],
        built=stamp["date"],
        build=_build()[1],
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def setup_fields(engine, setup, n_ctx: int) -> dict:
    """The fields of a row that say what was measured, and with what: model, setup (its budget in tokens for a context of n_ctx),
    and those in ORIGIN."""
    resolved = setup.for_context(n_ctx, engine.bytes_per_token)
    return {
        **setup.fields,
        "budget": resolved.budget or None,
        "n_batch": resolved.n_batch,
        "model_hash": engine.hash,
        **origin_fields(engine),
        "n_threads": setup.n_threads or engine.n_threads,
    }
