"""Pack what scripts/checks/gpu/check.sh needs on a machine without a network: gpu_pack.py [FILE] [--offline] [--without NAME ...]

The archive holds this repository's files, the part of the pinned llama.cpp that a build of libllama with CUDA compiles, and the
Python packages that the checks use, copied from this environment. Packages that are compiled for one version of Python are
downloaded for each version in PYTHONS; --offline packs them for this version alone.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "cmake"))
import build_stamp
import llama_source
import patch_series

TOP = "gpu-check"
OWN = (*build_stamp.SOURCES, "LICENSE", "scripts", "tests")
LEFT_OUT = {"__pycache__", "data", "server", "lib"}  # folders that are not packed, wherever they are

# of llama.cpp; files that patches change are packed too, since the build looks for them
SOURCE = ("CMakeLists.txt", "LICENSE", "cmake/", "include/", "src/", "vendor/", "ggml/CMakeLists.txt", "ggml/cmake/", "ggml/include/")
BACKENDS = ("ggml-cpu/", "ggml-cuda/")
NOT_COMPILED = ("vendor/cpp-httplib/", "vendor/miniaudio/miniaudio.h")

PACKAGES = tuple(
    "annotated_doc annotated_types cffi diskcache gguf jinja2 llama_cpp markdown_it markupsafe mdurl prompt_toolkit pycparser pydantic"
    " pydantic_core pygments rich shellingham tqdm typer typing_extensions typing_inspection wcwidth yaml".split()
)
TOOLS = ("cmake", "ninja")
# packages compiled for one version of Python: distribution -> start of the path of the compiled part
COMPILED = {"cffi": "_cffi_backend", "pydantic_core": "pydantic_core/_pydantic_core"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PLATFORMS = [f"manylinux{name}_x86_64" for name in ("2014", "_2_17", "_2_26", "_2_27", "_2_28")]


def is_needed(path: str, patched: set[str]) -> bool:
    """Whether the build compiles a file of llama.cpp (a path in its tree), or looks for it."""
    if path in patched:
        return True
    rest = path.removeprefix("ggml/src/")
    if rest != path:
        return "/" not in rest or rest.startswith(BACKENDS)
    return path.startswith(SOURCE) and not path.startswith(NOT_COMPILED)


def source_files() -> dict[str, bytes]:
    patched = {path for patch in patch_series.load_series() for path in patch.files}
    return {f"llama.cpp/{path}": data for path, data in llama_source.read_files(None).items() if is_needed(path, patched)}


def own_files() -> dict[str, bytes]:
    found = {}
    for name in OWN:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            rel = path.relative_to(ROOT)
            if path.is_file() and not LEFT_OUT & set(rel.parts[:-1]) and path.suffix != ".pyc":
                found[rel.as_posix()] = path.read_bytes()
    return found


def package_files(name: str) -> dict[str, bytes]:
    """The files of an installed package or module: path in the archive -> content."""
    spec = find_spec(name)
    if spec is None:
        raise SystemExit(f"capkv: the Python package {name} is not installed: run make demo, then .venv/bin/python {sys.argv[0]}")
    places = spec.submodule_search_locations
    top = Path(places[0]) if places else Path(spec.origin)
    files = sorted(top.rglob("*")) if places else [top]
    # of the cmake package: its other programs and its manual
    skip = ("/bin/ctest", "/bin/cpack", "/bin/ccmake", "/doc/", "/Help/", "__pycache__", "/llama_cpp/lib/")
    return {
        f"site/{path.relative_to(top.parent).as_posix()}": path.read_bytes()
        for path in files
        if path.is_file() and not any(part in path.as_posix() for part in skip)
    }


def compiled_files(name: str, part: str) -> dict[str, bytes]:
    """Download a distribution's compiled part for each version in PYTHONS: path in the archive -> content."""
    found = {}
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python]
            for platform in PLATFORMS:
                command += ["--platform", platform]
            run = subprocess.run([*command, "-d", folder, f"{name}=={metadata.version(name)}"], capture_output=True, text=True)
            wheels = list(Path(folder).glob("*.whl"))
            if not wheels:
                why = (run.stderr.strip().splitlines() or ["no reason"])[-1]
                print(f"gpu_pack: no {name} for Python {python}: {why}", file=sys.stderr)
                continue
            with zipfile.ZipFile(wheels[0]) as wheel:
                found |= {f"site/{path}": wheel.read(path) for path in wheel.namelist() if path.startswith(part)}
    return found


def about() -> bytes:
    run = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True)
    pin = llama_source.pin_name(llama_source.read_pin())
    return json.dumps(dict(commit=run.stdout.strip(), pin=pin, date=time.strftime("%Y-%m-%d"))).encode()


def pack(path: Path, offline: bool = False, without: tuple = ()) -> dict[str, int]:
    """Write the archive; returns the unpacked bytes of each of its top folders."""
    files = {"ABOUT.json": about(), **own_files(), **source_files()}
    for name in (*PACKAGES, *TOOLS):
        files |= package_files(name) if name not in without else {}
    for name, part in COMPILED.items():
        if name not in without:
            here = Path(find_spec(part.replace("/", ".")).origin)
            files[f"site/{part.rpartition('/')[0]}/{here.name}".replace("//", "/")] = here.read_bytes()
            files |= compiled_files(name, part) if not offline else {}
    if "ninja" not in without:  # its program is not in its package
        files["site/bin/ninja"] = Path(sys.executable).with_name("ninja").read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w:gz") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(f"{TOP}/{name}")
            info.size, info.mode = len(data), 0o755 if data[:2] == b"#!" or data[:4] == b"\x7fELF" else 0o644
            info.mtime = int(time.time())
            tar.addfile(info, io.BytesIO(data))
            top = name.split("/")[0]
            sizes[top] = sizes.get(top, 0) + len(data)
    return sizes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "build" / "gpu-check.tar.gz")
    parser.add_argument("--offline", action="store_true", help="download nothing: pack for this version of Python alone")
    names = ", ".join((*PACKAGES, *TOOLS))
    parser.add_argument("--without", nargs="*", default=(), metavar="NAME", help=f"packages to leave out, of {names}")
    args = parser.parse_args()
    try:
        sizes = pack(args.file, args.offline, tuple(args.without))
    except llama_source.SourceError as error:
        sys.exit(f"capkv: {error}")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
        print(f"{size / 2**20:8.1f} MiB  {name}")
    print(f"{args.file}: {args.file.stat().st_size / 2**20:.1f} MiB; there: tar xf {args.file.name} &&"
        f" {TOP}/scripts/checks/gpu/check.sh all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
