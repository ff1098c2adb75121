"""native/kernels/cpu-targets.cpp: instructions that not every processor has stand in the kernels for them, and nowhere else.

The linker keeps one copy of an inline function. A copy that was compiled for a target would run on processors without it.
"""

import platform
import re
import shutil
import subprocess

import pytest
from compile_commands import build_folder, commands

OBJDUMP = shutil.which("objdump")
NM = shutil.which("nm")
pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors have one target"),
    pytest.mark.skipif(OBJDUMP is None or NM is None, reason="objdump and nm are not there (binutils)"),
]

FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
#: registers of AVX and AVX-512, and the mnemonics of their instructions
VECTOR = re.compile(r"%[yz]mm|%xmm(1[6-9]|2\d|3[01])|%k[1-7]|\tv[a-z]")
#: the targets' namespaces in mangled names
TARGET = re.compile(r"^_ZN\d+capkv_cpu_(avx2|avx512)")


def instructions(path) -> dict:
    """{function: instructions of AVX or AVX-512 in it} of an object or a library; functions without any are left out."""
    code = subprocess.run([OBJDUMP, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
    found, function = {}, ""
    for line in code.splitlines():
        if begin := FUNCTION.match(line):
            function = begin[1]
        elif VECTOR.search(line):
            found.setdefault(function, []).append(line.strip())
    return found


def weak(path) -> set:
    """Symbols of an object of which the linker keeps one copy."""
    listed = subprocess.run([NM, "--defined-only", path], capture_output=True, text=True, check=True).stdout
    return {name for kind, name in (line.split()[-2:] for line in listed.splitlines()) if kind in "uvVwW"}


def compile_with(tmp_path, source: str) -> str:
    """The object of a source that is compiled as cpu-targets.cpp is, in its folder."""
    build = build_folder()
    command = next(line for line in commands(build) if line.endswith("/kernels/cpu-targets.cpp"))
    path = tmp_path / "targets.cpp"
    path.write_text(source, encoding="utf-8")
    command = re.sub(r" -(MD|M[TF] |o )\S*", "", command)
    command = command.rpartition(" -c ")[0] + f" -o {tmp_path}/targets.o -c {path}"
    subprocess.run(command, cwd=build, shell=True, check=True)
    return f"{tmp_path}/targets.o"


def targets_object():
    build = build_folder()
    found = [path for path in build.rglob("cpu-targets.cpp.o")]
    assert len(found) == 1
    return found[0]


def test_the_kernels_hold_the_instructions_of_their_target():
    found = instructions(targets_object())
    assert any("%ymm" in line for name in found if "avx2" in name for line in found[name])
    assert any("%zmm" in line for name in found if "avx512" in name for line in found[name])
    assert not any("%zmm" in line for name in found if "avx512" not in name for line in found[name])


def test_no_other_function_of_the_library_holds_any():
    library = build_folder() / "lib" / "libllama.so"
    assert {name for name in instructions(library) if not TARGET.match(name)} == set()


def test_no_symbol_of_which_one_copy_is_kept_holds_any():
    path = targets_object()
    assert weak(path) & set(instructions(path)) == set()


def test_an_inline_function_of_a_target_would_be_seen(tmp_path):
    source = """
        #define AVX2 __attribute__((target("avx2,fma"), noinline))
        AVX2 inline float third(const float * x) { return x[0]*x[1] + x[2]; }
        float use(const float * x);
        float use(const float * x) { return third(x); }
    """
    path = compile_with(tmp_path, source)
    assert [name for name in weak(path) & set(instructions(path)) if "third" in name]
