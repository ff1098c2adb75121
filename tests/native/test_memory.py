"""Memory follows the budget: the cells are what was asked for, and a long text leaves the process no larger."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

import capkv_edge

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "checks" / "memory.py"


def measure(*args):
    """Run scripts/checks/memory.py in a process of its own, whose peak is nobody else's; returns its last line."""
    path = os.pathsep.join([str(Path(capkv_edge.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), "--threads", "1", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("model, n_tokens", [("demo", 4000), ("tiny", 100_000)])
def test_memory_is_flat_after_the_first_eviction(model, n_tokens, tiny_llama):
    got = measure("--model", tiny_llama if model == "tiny" else model, "--tokens", n_tokens, "--ctx", 8192)
    assert got["n_tokens"] == n_tokens
    assert got["n_cells"] == 1024 and got["bytes_full"] == 8 * got["bytes_kv"]
    assert got["n_evictions"] >= (n_tokens - 1024) // 512
    assert got["growth"] <= 0.02


def test_without_an_end_a_long_text_adds_its_token_ids(tiny_llama):
    got = measure("--model", tiny_llama, "--tokens", 200_000)
    assert got["n_ctx"] is None and got["n_tokens"] == 200_000 and got["n_cells"] == 1024
    assert got["bytes_per_token"] < 64  # 4 for an id, and what the allocator leaves unused; K and V of a token are 512
    assert got["growth"] <= 0.02


def test_the_logical_length_costs_token_ids_and_nothing_else(make_llama, tiny_llama):
    short, long = (make_llama(tiny_llama, n_ctx=n, kv_budget=512) for n in (8192, 1 << 20))
    assert long.kv_stats().n_cells == short.kv_stats().n_cells == 1024
    assert long.kv_stats().bytes_total == short.kv_stats().bytes_total
    assert long.kv_stats().bytes_full == 128 * short.kv_stats().bytes_full
    assert long.input_ids.nbytes == 4 << 20 and long.scores.nbytes == 0


ADDRESS_SPACE = """
import sys
from driving import text
from capkv_edge import Llama

def size():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmSize"].split()[0]) << 10

llm = Llama(sys.argv[1], verbose=False, n_ctx=1024, n_batch=32, kv_budget=64, n_threads=1, n_threads_batch=1)
before = size()
llm.eval(text(400))
assert llm.kv_stats().n_evictions > 0
print(size() - before - llm.kv_stats().bytes_work)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_evictions_take_no_address_space_to_speak_of(tmp_path):
    path = tmp_path / "model.gguf"
    tiny_models.write_llama(path, n_layer=32)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", ADDRESS_SPACE, str(path)], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 48 << 20
