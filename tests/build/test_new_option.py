"""An option is one row of the table and one field of the struct: with both added, and all that knows the struct built anew, every
place that takes or shows options has it."""

import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from compile_commands import build_folder, commands, dependents, link_libllama

ROOT = Path(__file__).resolve().parents[2]

ROW = '{ "extra", CAPKV_TYPE_UINT, CAPKV_AT(n_extra), 2, 9, "5", false, "N", "tokens that are extra", "%s" },'
FIELD = "uint32_t n_extra;"

USE = """
import inspect
import os
import sys
import capkv_edge
from capkv_edge.bench.run.setups import Setup
from capkv_edge.config import options

option = options()["extra"]
assert list(options())[-1] == "extra" and option.kind is int and option.env == "LLAMA_ARG_KV_EXTRA"
assert (option.metavar, option.default, option.range, option.help) == ("N", "5", "2 to 9", "tokens that are extra")

assert [capkv_edge.CapkvConfig(**given).params.n_extra for given in ({}, {"extra": 7})] == [5, 7]
assert capkv_edge.CapkvConfig(extra="8").extra == 8
try:
    capkv_edge.CapkvConfig(extra=10)
except ValueError as err:
    assert str(err) == "kv_extra = 10: allowed is 2 to 9"

assert Setup.parse("capkv@512,extra=3").config().extra == 3

def kept(**given):
    llm = capkv_edge.Llama(sys.argv[1], kv_budget=64, n_batch=32, n_threads=1, verbose=False, **given)
    llm.eval(list(range(3, 259)) * 2)
    assert llm.kv_stats().n_evictions > 0
    return llm.kv_config.extra

assert inspect.signature(capkv_edge.Llama).parameters["kv_extra"].default is None
assert "kv_extra: tokens that are extra" in capkv_edge.Llama.__init__.__doc__
assert kept() == 5 and kept(kv_extra=7) == 7
os.environ["LLAMA_ARG_KV_EXTRA"] = "3"
assert kept() == 3
print("used")
"""

ARGS = """
#include "capkv-args.h"

int main(int argc, char ** argv) {
    for (int i = 1; i < argc; ++i) {
        capkv_parse_arg(argc, argv, i);
    }
    printf("%s\\n", getenv("LLAMA_ARG_KV_EXTRA"));
    capkv_print_args();
}
"""


def insert(path: Path, after: str, line: str) -> None:
    """A line before the `};` that ends what begins with `after`."""
    head, found, tail = path.read_text().partition(after)
    assert found and line not in tail
    body, end, rest = tail.partition("\n};\n")
    path.write_text(f"{head}{found}{body}\n    {line}{end}{rest}")


def build(tmp: Path) -> list:
    """Compile what includes capkv.h and link libllama in tmp/capkv_edge/lib; returns the compiler and its -I options."""
    folder, native, lib = build_folder(), tmp / "native", tmp / "capkv_edge" / "lib"
    stale = dependents(folder, ROOT / "native" / "include" / "capkv.h")

    jobs, objects = [], {}
    for command in commands(folder)[:-1]:
        words = shlex.split(command)
        source, target = Path(words[-1]), words[words.index("-o") + 1] if "-o" in words else ""
        if target in stale and source.is_relative_to(ROOT / "native"):
            objects[target] = f"{native / source.relative_to(ROOT / 'native')}.o"
            command = command.replace(str(ROOT / "native"), str(native)).replace(target, objects[target])
            jobs.append(f"{command} -O0")
    assert len(jobs) > 10
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: subprocess.run(job, cwd=folder, shell=True, check=True), jobs))

    lib.mkdir()
    link_libllama(folder, lib, objects)
    words = shlex.split(jobs[0])
    compiler = words[: next(i for i, word in enumerate(words) if word.startswith("-"))]
    return compiler + [word for word in words if word.startswith("-I")]


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A folder with the package, its libraries and its headers, where options and struct have one more."""
    if sys.platform != "linux":
        pytest.skip("reads the link command of a shared library on Linux")
    tmp = tmp_path_factory.mktemp("grown")
    shutil.copytree(ROOT / "native", tmp / "native")
    insert(tmp / "native" / "capkv-options.cpp", "capkv_rows[] = {", ROW)
    insert(tmp / "native" / "include" / "capkv.h", "struct capkv_params {", FIELD)
    shutil.copytree(ROOT / "capkv_edge", tmp / "capkv_edge", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tmp / "native" / "include", tmp / "capkv_edge" / "include")
    compiler = build(tmp)
    (tmp / "native").rename(tmp / "built")  # the package alone is used
    (tmp / "args.cpp").write_text(ARGS)
    options = ["-std=c++17", "-I" + str(tmp / "capkv_edge" / "include"), "args.cpp", "-o", "args"]
    libraries = ["-Lcapkv_edge/lib", "-lllama", f"-Wl,-rpath,{tmp}/capkv_edge/lib"]
    subprocess.run([*compiler, *options, *libraries], cwd=tmp, check=True)
    return tmp


def run(folder: Path, *command) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in ("CAPKV_LIB_PATH", "LLAMA_CPP_LIB_PATH")}
    environ["PYTHONPATH"] = str(folder)
    done = subprocess.run([*map(str, command)], env=environ, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_takes_it(grown, tiny_llama):
    assert run(grown, sys.executable, "-c", USE, tiny_llama) == "used\n"


def test_the_commands_take_it(grown):
    shown = run(grown, sys.executable, "-m", "capkv_edge.chat.cli", "--help")
    assert "--extra N tokens that are extra: 2 to 9" in " ".join(shown.split())
    said = run(grown, "./args", "--kv-extra", "9").splitlines()
    assert said[0] == "9" and said[-1].split(maxsplit=2) == ["--kv-extra", "<N>", "tokens that are extra (default: 5)"]


def test_the_documents_have_it(grown):
    table = run(grown, sys.executable, ROOT / "scripts" / "dev" / "docs_tables.py", "options")
    assert table.endswith("| `extra` | 5 | tokens that are extra | 2 to 9 |\n")
