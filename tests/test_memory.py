"""Memory follows the budget: the cells are what was asked for, and a long text leaves the process no larger."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import capkv_edge

SCRIPT = Path(__file__).parent.parent / "scripts" / "measure_memory.py"


def measure(*args):
    """Run scripts/measure_memory.py in a process of its own, whose peak is nobody else's; returns its last line."""
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


def test_the_logical_length_costs_token_ids_and_nothing_else(make_llama, tiny_llama):
    short, long = (make_llama(tiny_llama, n_ctx=n, kv_budget=512) for n in (8192, 1 << 20))
    assert long.kv_stats().n_cells == short.kv_stats().n_cells == 1024
    assert long.kv_stats().bytes_total == short.kv_stats().bytes_total
    assert long.kv_stats().bytes_full == 128 * short.kv_stats().bytes_full
    assert long.input_ids.nbytes == 4 << 20 and long.scores.nbytes == 0
