"""Build a wheel that adds one backend of ggml to an installed wheel of capkv-edge: backend_wheel.py vulkan|cuda|rpc [CMAKE OPTION]...

It has one library, libggml-NAME.so, beside the others of capkv-edge, and libllama opens what it finds beside itself. What the backend
needs of the machine, such as a driver, is not in the wheel; where that is not there, the backend is left out and the rest works.

    python scripts/dev/backend_wheel.py cuda -DCMAKE_CUDA_ARCHITECTURES=75-virtual

The wheel is put into build/wheels/dist. It has to be of the same version as capkv-edge's, which pip sees to.
"""

import re
import subprocess
import sys
from pathlib import Path
from platform import machine

from linux_wheel import CHECKOUT, OUT, repair

#: backend -> the libraries that the machine has to have, beside those of capkv-edge
NEEDED = {
    "vulkan": ["libvulkan.so.1"],
    "cuda": ["libcuda.so.1", "libcudart.so.*", "libcublas.so.*", "libcublasLt.so.*"],
    "rpc": [],
}


def project(key: str) -> str:
    return re.search(rf'^{key} = "(.*)"$', (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def compile_backend(name: str, options: list) -> Path:
    build = CHECKOUT / "build" / f"backend-{name}"
    tools = Path(sys.executable).parent
    cmake = tools / "cmake"
    options = ["-DCAPKV_PORTABLE=ON", f"-DGGML_{name.upper()}=ON", *options]
    subprocess.run([cmake, "-S", CHECKOUT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}", *options], check=True)
    subprocess.run([cmake, "--build", build, "--target", f"ggml-{name}"], check=True)
    return build / "lib" / f"libggml-{name}.so"


def pack(name: str, library: Path, folder: Path) -> Path:
    """A wheel of this library, which auditwheel has not seen yet."""
    from wheel.wheelfile import WheelFile

    version, platform = project("version"), f"linux_{machine()}"
    info = f"capkv_edge_{name}-{version}.dist-info"
    path = folder / f"capkv_edge_{name}-{version}-py3-none-{platform}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with WheelFile(path, "w") as wheel:
        wheel.write(str(library), f"capkv_edge/lib/{library.name}")
        wheel.writestr(f"{info}/licenses/LICENSE", (CHECKOUT / "LICENSE").read_bytes())
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.4\nName: capkv-edge-{name}\nVersion: {version}\nSummary: the {name} backend for capkv-edge\n"
            f"License-Expression: {project('license')}\nRequires-Python: {project('requires-python')}\n"
            f"Requires-Dist: capkv-edge=={version}\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: capkv-edge\nRoot-Is-Purelib: false\nTag: py3-none-{platform}\n"
        )
    return path


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NEEDED:
        raise SystemExit(__doc__)
    name, *options = sys.argv[1:]
    wheel = pack(name, compile_backend(name, options), OUT / "raw")
    repair(wheel, left_out=["libggml-base.so", *NEEDED[name]])


if __name__ == "__main__":
    main()
