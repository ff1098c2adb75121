"""patches/amx-tile-config.patch: what `ldtilecfg` reads is stored before it. Where it is not, it faults on processors with AMX.

No such processor is needed: the file is compiled for one with the build's own command, and its machine code is read.
"""

import re
import shutil
import subprocess

import pytest
from compile_commands import build_folder, commands

from capkv_edge import _lib

OBJDUMP = shutil.which("objdump")
PROCESSOR = "-march=sapphirerapids"  # has AMX

STORE = re.compile(r"\tv?mov(\w*) +(\S+),(-?0x[0-9a-f]+)?\((%\w+)\)$")
CLEAR = re.compile(r"\tv?p?xor\w? +%[xyz]mm(\d+),(?:%[xyz]mm\1,)?%[xyz]mm\1$")
WIDTHS = {"%x": 16, "%y": 32, "%z": 64, "%r": 8, "%e": 4}


def find_loads(code: str) -> list:
    """For each `ldtilecfg` in objdump's output: do stores of something else than zero reach the columns of the first tile (byte 16)
    and its rows (byte 48), in the straight run of code before it?"""
    found, run = [], []
    for line in code.splitlines():
        run.append(line.partition("#")[0].rstrip())
        if "\tldtilecfg " not in line:
            continue
        at, base = re.search(r"ldtilecfg +(-?0x[0-9a-f]+)?\((%\w+)\)", line).groups()
        zeros, stored = set(), set()
        for text in run[-64:]:
            if clear := CLEAR.search(text):
                zeros.add(clear[1])
            elif store := STORE.search(text):
                kind, value, offset, where = store.groups()
                width = {"b": 1, "w": 2, "l": 4, "q": 8}.get(kind) or WIDTHS.get(value[:2], 1)
                if where == base and value != "$0x0" and not (value[2:4] == "mm" and value[4:] in zeros):
                    start = int(offset or "0", 16) - int(at or "0", 16)
                    stored |= set(range(start, start + width))
            elif written := re.search(r",%[xyz]mm(\d+)$", text):
                zeros.discard(written[1])
        found.append({16, 48} <= stored)
        run = []
    return found


GOOD = """
 28266:\tvpxor  %xmm0,%xmm0,%xmm0
 2826a:\tvmovdqa64 %zmm0,0xc0(%rsp)
 28272:\tmov    0x0(%rip),%rdx        # 28279
 28279:\tvmovdqa 0x0(%rip),%xmm0        # 28281
 28281:\tmovb   $0x1,0xc0(%rsp)
 28289:\tmov    %rdx,0xf0(%rsp)
 28291:\tvmovdqa %xmm0,0xd0(%rsp)
 2829a:\tldtilecfg 0xc0(%rsp)
"""
BAD = """
 2825e:\tvpxor  %xmm0,%xmm0,%xmm0
 28262:\tvmovdqa64 %zmm0,0xc0(%rsp)
 2826a:\tmovb   $0x1,0xc0(%rsp)
 28272:\tldtilecfg 0xc0(%rsp)
"""


def test_the_check_of_machine_code_sees_stores_that_were_dropped():
    assert find_loads(GOOD + BAD) == [True, False]


def disassemble(path) -> str:
    if OBJDUMP is None:
        pytest.skip("objdump is not there (binutils)")
    return subprocess.run([OBJDUMP, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout


def test_compiled_for_amx_the_source_stores_before_it_loads(tmp_path):
    build = build_folder()
    command = next(line for line in commands(build, "lib/libggml-cpu.so") if line.endswith("/amx/mmq.cpp"))
    command = re.sub(r" -(march=|mcpu=|MD|M[TF] |o )\S*", "", command)
    command = command.replace(" -c ", f" {PROCESSOR} -o {tmp_path}/mmq.o -c ")
    made = subprocess.run(command, cwd=build, shell=True, capture_output=True, text=True)
    if made.returncode and re.search(r"sapphirerapids|march", made.stderr):
        pytest.skip(f"the compiler does not know {PROCESSOR}")
    assert made.returncode == 0, made.stderr
    assert find_loads(disassemble(tmp_path / "mmq.o")) == [True]


def test_the_library_stores_before_it_loads():
    library = _lib.lib_dir() / "libggml-cpu.so"
    if not library.is_file():
        pytest.skip(f"no {library.name} here")
    if not (found := find_loads(disassemble(library))):
        pytest.skip("the library has no AMX code: it was built for a processor without, or by a compiler that knows none")
    assert all(found)
