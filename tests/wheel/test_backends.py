"""A wheel with ggml's backends as libraries of their own: which ones are opened, from where, and what is said when none fits."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capkv_edge import _lib

WANTED, _, KERNELS = os.environ["CAPKV_TEST_WHEEL"].partition(",")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and the loader's log")
SERVER = _lib.lib_dir() / "llama-server"


def opened() -> set:
    """The names of ggml's libraries that this process has open."""
    _lib.load()
    return set(re.findall(r"/lib(ggml-[^/]*)\.so$", Path("/proc/self/maps").read_text(), re.MULTILINE))


def run(code, **env):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True)


@LINUX
def test_one_variant_of_the_cpu_backend_is_open():
    found = [name.removeprefix("ggml-cpu-") for name in opened() if name.startswith("ggml-cpu")]
    assert len(found) == 1
    assert WANTED in ("any", *found)


@pytest.mark.skipif(not KERNELS, reason="CAPKV_TEST_WHEEL names no instructions")
def test_our_kernels_are_those_of_the_processor():
    ffi, lib = _lib.load()
    assert ffi.string(lib.capkv_get_cpu_target(0)).decode() == KERNELS


@LINUX
def test_the_wheel_has_a_variant_for_every_processor():
    found = {path.stem.removeprefix("libggml-cpu-") for path in _lib.lib_dir().glob("libggml-cpu-*.so")}
    assert found > ({"x64", "haswell", "skylakex"} if os.uname().machine == "x86_64" else {"armv8.0_1", "armv8.2_1"})


def test_a_plain_llama_of_llama_cpp_computes(tiny_llama):
    code = """
        import capkv_edge, llama_cpp
        llm = llama_cpp.Llama(MODEL, n_ctx=64, verbose=False)
        llm.eval([1, 2, 3])
        print(llm.n_tokens)
    """
    done = run("import textwrap; exec(textwrap.dedent(CODE))".replace("CODE", repr(code.replace("MODEL", repr(str(tiny_llama))))))
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_without_a_backend_that_fits_the_error_names_the_folder(tmp_path):
    folder, needed = tmp_path / "capkv_edge" / "lib", _lib.lib_dir().parents[1] / "capkv_edge.libs"
    if needed.is_dir():  # what auditwheel took from the system
        shutil.copytree(needed, tmp_path / needed.name)
    shutil.copytree(_lib.lib_dir(), folder, ignore=shutil.ignore_patterns("*ggml-cpu-*", "*ggml-vulkan*", "*ggml-cuda*", "*ggml-metal*"))
    done = run("import capkv_edge\ncapkv_edge.Llama", CAPKV_LIB_PATH=str(folder))
    assert done.returncode == 1
    assert f"ImportError: no backend of ggml in {folder} can run on this processor" in done.stderr


@LINUX
@pytest.mark.skipif(not SERVER.is_file(), reason="this wheel has no llama-server")
def test_a_server_opens_no_backend_from_the_current_folder(tmp_path):
    other = next(_lib.lib_dir().glob("libggml-cpu-*.so"))
    shutil.copy2(other, tmp_path / "libggml-cpu-planted.so")
    done = subprocess.run([SERVER, "--list-devices"], cwd=tmp_path, env={**os.environ, "LD_DEBUG": "files"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert other.name in done.stderr
    assert "planted" not in done.stderr
