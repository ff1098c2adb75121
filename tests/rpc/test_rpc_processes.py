"""Whole processes over RPC servers: capkv-chat, one whose server dies, and what evictions ask of the servers."""

import os
import signal
import subprocess
import sys

import pytest

CHAT = [sys.executable, "-m", "capkv_edge.chat.cli"]

DIES = """
import os, sys
from driving import text
from capkv_edge import Llama
path, servers, victim = sys.argv[1:]
llm = Llama(path, rpc_servers=servers.split(","), kv_budget=64, n_batch=32, n_threads=1, tensor_split=[1, 4], verbose=False)
llm.eval(text(300))
assert llm.kv_stats().n_evictions > 0
os.kill(int(victim), 9)
llm.eval(text(300))
print("still here")
"""


def run(command, **env):
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [str(word) for word in command], env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True, timeout=300
    )


def test_a_server_that_dies_is_named(start, tiny_llama):
    servers = [start(), start()]
    done = run([sys.executable, "-c", DIES, tiny_llama, ",".join(one.name for one in servers), servers[1].process.pid])
    assert done.returncode == -signal.SIGABRT and "still here" not in done.stdout
    assert f"the RPC server {servers[1].name} is gone (Connection refused)" in done.stderr
    assert servers[0].name not in done.stderr


def test_capkv_chat_over_two_servers(start, demo_model, tmp_path):
    servers = ",".join([start().name, start().name])
    (tmp_path / "text.txt").write_text("The keeper of the lighthouse counts the ships. " * 60)
    asks = ["--file", tmp_path / "text.txt", "--prompt", "Who counts the ships?", "--temp", 0, "--max-tokens", 8]
    done = run([*CHAT, "demo", "--rpc", servers, "--budget", 192, *asks])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "tokens evicted" in done.stderr
    assert all(f"RPC0[{server}] (" in done.stderr for server in servers.split(","))


def test_a_server_that_serves_another_process_is_named(start, tiny_llama, make_llama, monkeypatch):
    server = start()
    monkeypatch.setattr("capkv_edge.rpc._SECONDS", 0.5)
    make_llama(tiny_llama, rpc_servers=server.name, kv_budget=64)
    done = run([*CHAT, tiny_llama, "--rpc", server.name, "--prompt", "a"])
    assert done.returncode == 2
    assert f"capkv-chat: error: rpc_servers = {server.name}: {server.name} cannot be used: no answer in 5 s" in done.stderr


def test_every_node_of_an_eviction_runs_on_the_servers(start, program):
    servers = ",".join([start().name, start().name])
    test = program.with_name("test-capkv-on-device")
    done = run([test], CAPKV_TEST_RPC=servers)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert all(f"\n{on} " in done.stdout for on in ("RPC0", "CPU+RPC0", "RPC0+RPC1"))


@pytest.mark.parametrize("servers", [["127.0.0.1:1"], "127.0.0.1:1"])
def test_a_server_that_is_not_there_is_named(make_llama, tiny_llama, servers):
    with pytest.raises(OSError, match="rpc_servers = 127.0.0.1:1: 127.0.0.1:1 cannot be used: Connection refused"):
        make_llama(tiny_llama, rpc_servers=servers)


def test_a_package_of_this_build_has_the_backend(program, tmp_path):
    done = run(["cmake", "--install", program.parents[1], "--component", "capkv", "--prefix", tmp_path])
    assert done.returncode == 0, done.stderr
    assert {"libggml-rpc.so", "libllama.so"} <= {path.name for path in (tmp_path / "capkv_edge" / "lib").iterdir()}
