"""How many layers go to the GPU by default, and which device holds the cache, with a GPU that the tests invent."""

import subprocess
import sys

import llama_cpp
import pytest
from driving import BUDGET, text

from capkv_edge import Llama, _log, devices
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.provenance import engine_fields, machine


@pytest.mark.parametrize("has_gpu, n", [(True, 0x7FFFFFFF), (False, 0)])
def test_all_layers_in_a_build_with_a_gpu(monkeypatch, make_llama, tiny_llama, has_gpu, n):
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: has_gpu)
    assert make_llama(tiny_llama, **BUDGET).model_params.n_gpu_layers == n
    assert make_llama(tiny_llama, n_gpu_layers=1, **BUDGET).model_params.n_gpu_layers == 1
    with Engine(tiny_llama, n_threads=1) as engine:
        assert engine.n_gpu_layers == (-1 if has_gpu else 0)
    with Engine(tiny_llama, n_threads=1, n_gpu_layers=1) as engine:
        assert engine.n_gpu_layers == 1


@pytest.mark.parametrize("opens", [lambda path: Llama(path, verbose=False, n_ctx=64), Engine], ids=["Llama", "bench"])
def test_a_model_that_does_not_open_on_a_gpu_says_what_to_try(monkeypatch, tiny_llama, tmp_path, opens):
    (tmp_path / "cut.gguf").write_bytes(tiny_llama.read_bytes()[:-50000])
    for has_gpu in (True, False):
        monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda answer=has_gpu: answer)
        with pytest.raises(ValueError, match="cannot load .*cut.gguf") as caught:
            opens(tmp_path / "cut.gguf")
        assert ("a smaller n_gpu_layers (--gpu-layers)" in str(caught.value)) == has_gpu


def test_a_cache_on_the_cpu_says_so(make_llama, tiny_llama, capfd):
    llm = make_llama(tiny_llama, verbose=True, **BUDGET)
    assert llm.cache_device == "CPU" and "Llama: the cache is on CPU\n" in capfd.readouterr().err
    assert make_llama(tiny_llama, n_ctx=64).cache_device == "CPU"
    with Engine(tiny_llama, n_threads=1) as engine:
        assert engine.cache_device == "CPU"


def test_rows_name_the_gpu_where_layers_are_on_one(monkeypatch, tiny_llama):
    assert devices.gpu_name() == ""
    with Engine(tiny_llama, n_threads=1) as engine:
        processor = machine(engine)
        monkeypatch.setattr(devices, "gpu_name", lambda: "a GPU")
        assert processor and machine(engine) == processor
        engine.n_gpu_layers = -1
        assert machine(engine) == engine_fields(engine)["device"] == "a GPU"


def test_the_devices_are_those_that_llama_cpp_names():
    _log.forget()
    for line in (
        "llama_kv_cache:      CUDA0 KV buffer size =    12.00 MiB\n",
        "llama_kv_cache:        CPU KV buffer size =     4.00 MiB\n",
        "llama_kv_cache: size =   16.00 MiB\n",
        "sched_reserve:      CUDA0 compute buffer size =   300.00 MiB\n",
        "llama_kv_cache:      CUDA0 KV buffer size =    4.00 MiB\n",
    ):
        _log._take(1, line)
    assert devices.describe(_log.cache_buffers()) == "CUDA0 (80%), CPU (20%)"
    _log.forget()
    assert devices.describe(_log.cache_buffers()) == "unknown"


AT_ONCE = """
import sys, threading
from capkv_edge import Llama
wait = threading.Barrier(6)
def make():
    wait.wait()
    for _ in range(5):
        Llama(sys.argv[1], n_ctx=64, n_threads=1, verbose=False).close()
made = [threading.Thread(target=make) for _ in range(6)]
for one in made: one.start()
for one in made: one.join()
print("still here", flush=True)
print("here too", file=sys.stderr, flush=True)
"""


def test_llamas_made_at_once_leave_stdout_and_stderr_open(tiny_llama):
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", AT_ONCE, str(tiny_llama)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "here too\n")


def test_errors_of_threads_are_not_mixed_up(tmp_path, tiny_llama, make_llama):
    """A model that fails on one thread changes nothing that another thread has kept."""
    import threading

    _log.forget()
    _log._take(4, "load: mine\n")
    other = threading.Thread(target=lambda: (_log.forget(), _log._take(4, "load: another's\n")))
    other.start()
    other.join()
    assert _log.reason() == "mine"
    llm = make_llama(tiny_llama, **BUDGET)
    llm.eval(text(10))
    assert llm.cache_device == "CPU"
