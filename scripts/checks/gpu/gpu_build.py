"""The step build of scripts/checks/gpu/check.sh: libllama and ggml's CUDA backend in build/gpu, for this machine's GPU or a named one.

ggml needs cuBLAS: it is taken from the CUDA toolkit, else from the Python package nvidia-cublas, which PyTorch installs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "gpu"
CUBLAS = "cublas_v2.h"

# loads the libraries as a user of them does, and prints the backends that ggml finds: a symbol that is missing shows here
LOAD = """
import ctypes, sys
llama, ggml = (ctypes.CDLL(f"{sys.argv[1]}/lib{name}.so", ctypes.RTLD_GLOBAL) for name in ("llama", "ggml"))
llama.capkv_n_policies.restype = ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
ggml.ggml_backend_reg_get.argtypes, ggml.ggml_backend_reg_get.restype = [ctypes.c_size_t], ctypes.c_void_p
ggml.ggml_backend_reg_name.argtypes, ggml.ggml_backend_reg_name.restype = [ctypes.c_void_p], ctypes.c_char_p
assert llama.capkv_n_policies() > 0
print(*(ggml.ggml_backend_reg_name(ggml.ggml_backend_reg_get(i)).decode() for i in range(ggml.ggml_backend_reg_count())))
"""


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
    raise Missing(f"no cuBLAS ({CUBLAS}, libcublas.so): neither in {toolkit} nor in Python's package nvidia-cublas: install one of them")


def cuda_options() -> list[str]:
    """The CMake options for this machine's GPU, or for the compute capability in CAPKV_GPU_CHECK_CHIP (9.0, or 9.0-virtual for PTX alone).

    Raises:
        Missing: no nvcc, no GPU and none named, or no cuBLAS.
    """
    nvcc = shutil.which("nvcc") or (os.path.exists("/usr/local/cuda/bin/nvcc") and "/usr/local/cuda/bin/nvcc")
    if not nvcc:
        raise Missing("no nvcc: it comes with the CUDA toolkit")
    toolkit = toolkit_of(nvcc)
    chip = os.environ.get("CAPKV_GPU_CHECK_CHIP") or ask("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    if not chip:
        raise Missing("no NVIDIA GPU: nvidia-smi names none. CAPKV_GPU_CHECK_CHIP=9.0 compiles for one that is not here")
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
    """Run CMake, unless it ran with the same options before."""
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    command = [cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    command += cuda_options() if backend == "cuda" else []
    command += shlex.split(os.environ.get("CAPKV_GPU_CHECK_CMAKE", ""))
    if (ROOT / "llama.cpp").is_dir():
        command.append(f"-DLLAMA_CPP_DIR={ROOT / 'llama.cpp'}")
    configured, text = BUILD / "configured.txt", shlex.join(command)
    if (BUILD / "build.ninja").exists() and configured.exists() and configured.read_text(encoding="utf-8") == text:
        return
    run(command, log)
    configured.write_text(text, encoding="utf-8")


def run(command: list[str], log) -> None:
    print("$ " + " ".join(command), file=log, flush=True)
    status = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT)
    if status:
        log.flush()
        raise Missing(f"{Path(command[0]).name} ended with {status}: see {log.name}")


def build(backend: str, folder: Path) -> str:
    """Configure if that was not done yet with these options, and compile what is missing; the log goes into the folder.

    Returns:
        The names of the libraries, and the backends that they have.

    Raises:
        Missing: something is not here, or a command failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.log").open("a") as log:
        configure(backend, log)
        run([find_tool("cmake"), "--build", str(BUILD), "--target", "capkv", "--parallel"], log)
    built = sorted(path.name for path in (BUILD / "lib").glob("lib*.so"))
    wanted = "libggml-cuda.so" if backend == "cuda" else "libggml-cpu.so"
    if wanted not in built:
        raise Missing(f"{wanted} was not built")
    return f"{', '.join(built)}; loaded, with {', '.join(loaded_backends(backend))}"


def loaded_backends(backend: str) -> list[str]:
    """The backends that the libraries have once they are loaded, in another process.

    Raises:
        Missing: they do not load, or lack the wanted one.
    """
    done = subprocess.run([sys.executable, "-c", LOAD, str(BUILD / "lib")], capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"the libraries do not load: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
    found = done.stdout.splitlines()[-1].split()
    if backend.upper() not in found:
        raise Missing(f"the libraries load without {backend.upper()}: they have {', '.join(found)}")
    return found
