"""What a row says about model, libraries and machine, so that its measurement can be repeated."""

import hashlib
import platform
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import llama_cpp

from ... import __version__, _lib, devices
from ..._upstream import library_path

_PACKAGE = Path(__file__).resolve().parents[2]


@cache
def commit() -> str | None:
    """The commit of the checkout that this package is in, with "-dirty" if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # git is not installed
        return None
    return found.stdout.strip() or None


@cache
def _build() -> tuple:
    """(digest of the libraries, what llama.cpp says of its build)."""
    lib = library_path()
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(lib.parent.glob("lib*")):
        digest.update(path.name.encode() + path.read_bytes())
    info = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return digest.hexdigest(), " ".join(info.split())


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


def engine_fields(engine) -> dict:
    """The fields that all rows measured with an engine share."""
    lib, build = _build()
    return dict(
        model=engine.path.name,
        model_type=engine.type,
        model_hash=engine.hash,
        n_threads=engine.n_threads,
        n_gpu_layers=engine.n_gpu_layers,
        device=machine(engine),
        backends=list(_devices()),
        pin=f"llama_cpp_python {llama_cpp.__version__}",
        version=__version__,
        commit=commit(),
        lib=lib,
        build=build,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def setup_fields(engine, setup, n_ctx: int) -> dict:
    """The fields of a row that say what was measured: the setup, with its budget in tokens for a context of n_ctx, and the model."""
    resolved = setup.for_context(n_ctx, engine.bytes_per_token)
    return dict(setup.fields, budget=resolved.budget or None, n_batch=resolved.n_batch, model_hash=engine.hash)
