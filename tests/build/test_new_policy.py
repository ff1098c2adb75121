"""The example of docs/policies.md: a policy is one file and one line. Both are taken from there, built and used."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from compile_commands import build_folder, commands, link_libllama

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"
TABLE = "policies/policies.def"

USE = """
import sys
import numpy as np
import capkv_edge
from scorer import score

v = np.random.default_rng(0).normal(size=(2, 40, 8)).astype(np.float32)
np.testing.assert_allclose(score("vnorm", v, v), np.linalg.norm(v, axis=-1), rtol=1e-5)
assert capkv_edge.policies()["vnorm"] == "entries with large values"

llm = capkv_edge.Llama(sys.argv[1], kv_budget=64, n_batch=32, kv_policy="vnorm", n_threads=1, verbose=False)
llm.eval(list(range(3, 259)) * 2)
assert llm.kv_stats().n_evictions > 0
print("used")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the link command of a shared library on Linux")
def test_the_example_is_one_file_and_one_line(tiny_llama, tmp_path):
    blocks = re.findall(r"`native/([\w./-]+)`:\n\n```cpp\n(.*?)```", (ROOT / "docs" / "policies.md").read_text(), re.S)
    (name, source), (table, line) = blocks
    assert table == TABLE and line.count("\n") == 1 and not (NATIVE / name).exists()

    sources = [tmp_path / name, tmp_path / "policies" / "policy.cpp"]
    sources[0].parent.mkdir()
    sources[0].write_text(source)
    sources[1].write_text((NATIVE / "policies" / "policy.cpp").read_text())
    (tmp_path / table).write_text((NATIVE / table).read_text() + line)

    build = build_folder()
    compile_table = next(command for command in commands(build) if command.endswith("native/policies/policy.cpp"))
    old_object = shlex.split(compile_table)[shlex.split(compile_table).index("-o") + 1]
    for path in sources:
        command = compile_table.replace(old_object, f"{path}.o").replace(str(NATIVE / "policies" / "policy.cpp"), str(path))
        command = re.sub(r"-c \S+$", f"-I{NATIVE / 'policies'} -c {path}", command)
        subprocess.run(command, cwd=build, shell=True, check=True)

    link_libllama(build, tmp_path, {old_object: " ".join(f"{path}.o" for path in sources)})

    environ = {**os.environ, "CAPKV_LIB_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])}
    used = subprocess.run([sys.executable, "-c", USE, tiny_llama], env=environ, capture_output=True, text=True)
    assert used.stdout == "used\n", used.stderr
