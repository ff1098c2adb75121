"""The step build of scripts/checks/gpu/check.sh: libllama and ggml's CUDA backend for this machine's GPU, in build/gpu.

ggml needs cuBLAS: it is taken from the CUDA toolkit, else from the Python package nvidia-cublas, which PyTorch installs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "gpu"
CUBLAS = "cublas_v2.h"


class Missing(Exception):
    """Something that the build needs is missing; the text says what."""


def find_tool(name: str) -> str:
    """The path of cmake or ninja: this machine's, else the one in the archive.

    Raises:
        Missing: there is neither.
    """
    carried = ROOT / "site" / name / "data" / "bin" / name
    for path in (shutil.which(name), shutil.which(name, path=str(Path(sys.executable).parent)), carried, ROOT / "site" / "bin" / name):
        if path and os.path.exists(path):
            return str(path)
    raise Missing(f"no {name} here, and none in the archive")


def ask(*command: str) -> str:
    """The first line that a command prints; empty if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def toolkit_of(nvcc: str) -> Path:
    """The folder of the CUDA toolkit. It is asked of nvcc, whose path may be a link or a script elsewhere."""
    run = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull], capture_output=True, text=True)
    tops = [line.partition("TOP=")[2] for line in run.stderr.splitlines() if "TOP=" in line]
    return Path(tops[0]).resolve() if tops and tops[0] else Path(nvcc).resolve().parent.parent


def python_folders() -> list[Path]:
    """The folders of NVIDIA's Python packages with cuBLAS: each has include/ and lib/."""
    spec = find_spec("nvidia")
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return [header.parent.parent for place in places for header in sorted(place.glob(f"*/include/{CUBLAS}"))]


def find_cublas(toolkit: Path, others: list[Path]) -> list[str]:
    """The CMake options that name cuBLAS; none if the toolkit has it.

    Raises:
        Missing: it is neither in the toolkit nor in the other folders.
    """
    if any(toolkit.glob(f"**/include/{CUBLAS}")) and any(toolkit.glob("**/libcublas.so")):
        return []
    for folder in others:
        libraries = {name: next(iter(sorted((folder / "lib").glob(f"lib{name}.so*"))), None) for name in ("cublas", "cublasLt")}
        if all(libraries.values()):
            options = [f"-DCUDA_{name}_LIBRARY={path}" for name, path in libraries.items()]
            return [*options, f"-DCMAKE_CUDA_FLAGS=-isystem {folder / 'include'}", f"-DCMAKE_CXX_FLAGS=-isystem {folder / 'include'}"]
    raise Missing(f"no cuBLAS ({CUBLAS}, libcublas.so): neither in {toolkit} nor in Python's package nvidia-cublas")


def cuda_options() -> list[str]:
    """The CMake options for this machine's GPU.

    Raises:
        Missing: no nvcc, no GPU or no cuBLAS.
    """
    nvcc = shutil.which("nvcc") or (os.path.exists("/usr/local/cuda/bin/nvcc") and "/usr/local/cuda/bin/nvcc")
    if not nvcc:
        raise Missing("no nvcc: it comes with the CUDA toolkit")
    toolkit = toolkit_of(nvcc)
    chip = os.environ.get("CAPKV_GPU_CHECK_CHIP") or ask("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    if not chip:
        raise Missing("no NVIDIA GPU: nvidia-smi names none")
    options = ["-DGGML_CUDA=ON", "-DGGML_CUDA_NCCL=OFF", f"-DCMAKE_CUDA_ARCHITECTURES={chip.replace('.', '')}"]
    options += [f"-DCMAKE_CUDA_COMPILER={toolkit / 'bin' / 'nvcc'}", f"-DCUDAToolkit_ROOT={toolkit}"]
    if not any(toolkit.glob("**/stubs/libcuda.so")):
        options.append("-DGGML_CUDA_NO_VMM=ON")  # without the stub library, the driver's functions for virtual memory cannot be linked
    cublas = find_cublas(toolkit, python_folders())
    # for the search at run time: an RPATH also counts for the libraries that these libraries load, a RUNPATH does not
    folders = {next(iter(toolkit.glob("**/libcudart.so"))).parent}
    folders |= {Path(option.partition("=")[2]).parent for option in cublas if option.startswith("-DCUDA_cublas_LIBRARY=")}
    rpath = "".join(f",-rpath,{folder}" for folder in sorted(folders))
    return [*options, *cublas, f"-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--disable-new-dtags{rpath}"]


def configure(backend: str, log) -> None:
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    command = [cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    command += cuda_options() if backend == "cuda" else []
    if (ROOT / "llama.cpp").is_dir():
        command.append(f"-DLLAMA_CPP_DIR={ROOT / 'llama.cpp'}")
    run(command, log)


def run(command: list[str], log) -> None:
    print("$ " + " ".join(command), file=log, flush=True)
    status = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT)
    if status:
        log.flush()
        raise Missing(f"{Path(command[0]).name} ended with {status}: see {log.name}")


def build(backend: str, folder: Path) -> str:
    """Configure if that was not done yet, and compile what is missing; the log goes into the folder.

    Returns:
        The names of the libraries.

    Raises:
        Missing: something is not here, or a command failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.log").open("a") as log:
        if not (BUILD / "build.ninja").exists():
            configure(backend, log)
        run([find_tool("cmake"), "--build", str(BUILD), "--target", "capkv", "--parallel"], log)
    built = sorted(path.name for path in (BUILD / "lib").glob("lib*.so"))
    wanted = "libggml-cuda.so" if backend == "cuda" else "libggml-cpu.so"
    if wanted not in built:
        raise Missing(f"{wanted} was not built")
    return ", ".join(built)
