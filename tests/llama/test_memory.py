"""What memory a Llama will take, and the largest budget that fits: the figures before loading are those after it."""

import os
import subprocess
import sys

import pytest
import tiny_archs
import tiny_models

from capkv_edge import Llama, host_memory
from capkv_edge._lib import load
from capkv_edge.llama import memory
from capkv_edge.llama.memory import DeviceMemory, DoesNotFitError, Memory, fit_budget, measure

MIB = 1 << 20
THREADS = dict(n_threads=1, n_threads_batch=1)


@pytest.fixture
def free(monkeypatch):
    """Sets what is free on the CPU, and leaves no margin."""

    def set_free(n_bytes, margin=0):
        monkeypatch.setattr(host_memory, "available", lambda fallback=0: n_bytes)
        monkeypatch.setattr(memory, "MARGIN_SHARE", 0)
        monkeypatch.setattr(memory, "MARGIN_LEAST", margin)

    return set_free


def taken(llm) -> tuple:
    """(weights, cache, work) that an open Llama has taken."""
    ffi, lib = load()
    rows = ffi.new("struct capkv_device_memory[4]")
    assert lib.capkv_get_device_memory(ffi.cast("struct llama_context *", llm.ctx), rows, 4) == 1
    return rows[0].bytes_model, rows[0].bytes_cache, rows[0].bytes_work


MODELS = {
    "llama": tiny_models.write_llama,
    "gemma3": tiny_models.write_gemma3,  # sliding windows in five of six layers
    "lfm2": tiny_archs.write_lfm2,  # recurrent layers too
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [dict(kv_budget=512), dict(kv_budget=2048, kv_type="f16"), dict(kv_budget=0, n_ctx=2048)], ids=str)
def test_the_figures_are_those_of_the_open_model(model, options, tmp_path):
    MODELS[model](tmp_path / "a.gguf")
    found = measure(tmp_path / "a.gguf", **options, **THREADS)
    (device,) = found.devices
    llm = Llama(tmp_path / "a.gguf", verbose=False, **options, **THREADS)
    try:
        assert (device.weights, device.cache, device.work) == taken(llm)
        assert (found.n_cells, found.is_endless) == (llm.kv_stats().n_cells if llm.kv_config else llm.n_ctx(), llm.is_endless)
        assert found.config == llm.kv_config
        if llm.kv_config and model == "llama":
            now = llm.kv_stats()
            assert now.bytes_kv + now.bytes_obs <= device.cache <= now.bytes_kv + now.bytes_obs + 4096  # padded
    finally:
        llm.close()


def test_the_work_memory_is_what_the_first_eviction_has(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, kv_budget=256)
    llm.eval([3 + i % 250 for i in range(1000)])
    assert llm.kv_stats().n_evictions > 0
    assert taken(llm)[2] == measure(tiny_llama, kv_budget=256, **THREADS).devices[0].work


def test_each_sequence_has_a_cache(tiny_llama):
    one, four = (measure(tiny_llama, n_sequences=n, kv_budget=512, **THREADS) for n in (1, 4))
    assert one.n_cells == four.n_cells == 1024
    assert 3.9 * one.devices[0].cache < four.devices[0].cache < 4.1 * one.devices[0].cache


PEAK = """
import resource, sys
from capkv_edge.llama import memory

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

memory.measure(sys.argv[1], kv_budget=512, n_threads=1, n_threads_batch=1)
before = peak()
found = memory.measure(sys.argv[1], kv_budget=80_000, kv_type="f32", n_ctx=400_000, n_threads=1, n_threads_batch=1)
print(found.devices[0].cache, peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_nothing_of_it_is_taken(tmp_path):
    model = tmp_path / "a.gguf"
    tiny_models.write_llama(model, n_embd=512, n_head_kv=4)
    path = os.pathsep.join(sys.path)
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", PEAK, str(model)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    cache, grown = map(int, done.stdout.split())
    assert cache > 700 * MIB and grown < cache / 8


# --- what does not fit ---


def test_what_does_not_fit_is_refused_with_the_figures(tiny_llama, free):
    free(1 * MIB)
    with pytest.raises(DoesNotFitError) as err:
        measure(tiny_llama, kv_budget=1024, **THREADS).check()
    said = str(err.value)
    assert said.startswith("this does not fit on CPU: weights 1.4 MiB + cache ") and ", and 1.0 MiB are free; a smaller budget" in said
    assert "= " in said and "of which 1.4 MiB may stay in the file" in said


def test_weights_that_are_mapped_need_not_fit():
    device = DeviceMemory("CPU", True, free=100, weights=90, mapped=90, cache=10, work=20)
    found = Memory((device,), None, 10, 10, False)
    found.check()
    (remark,) = found.remarks()
    assert remark.startswith("the weights do not fit into the free memory of CPU beside the rest: ")
    copied = DeviceMemory("CUDA0", False, free=100, weights=90, mapped=0, cache=10, work=20)
    with pytest.raises(DoesNotFitError, match="does not fit on CUDA0: .* are free; a smaller n_gpu_layers"):
        Memory((copied,), None, 10, 10, False).check()
    unknown = DeviceMemory("GPU", False, free=0, weights=90, mapped=0, cache=10, work=20)
    Memory((unknown,), None, 10, 10, False).check()
    line = Memory((unknown,), None, 10, 10, False).line()
    assert line == "memory: weights 90 B + cache 10 B + work 20 B = 120 B of an unknown amount on GPU"


# --- the largest budget ---


def test_with_enough_memory_it_is_the_largest_that_is_of_use(tiny_llama, free):
    free(1 << 33)
    found = fit_budget(tiny_llama, **THREADS)
    assert (found.budget, found.memory.n_cells, found.memory.is_endless) == (3264, 4096, True)
    assert "with a larger one the text would end at the trained length of 4,096" in found.lines()[1]
    assert not measure(tiny_llama, kv_budget=3712, **THREADS).is_endless
    given = fit_budget(tiny_llama, kv_headroom=512, **THREADS)
    assert given.budget == 3584 and given.memory.is_endless
    ended = fit_budget(tiny_llama, n_ctx=1024, **THREADS)
    assert ended.budget == 1024 and "the context is 1,024 tokens long" in ended.lines()[1]
    shared = fit_budget(tiny_llama, n_sequences=2, n_ctx=2048, **THREADS)
    assert (shared.budget, shared.memory.n_cells) == (1024, 1024)


@pytest.mark.parametrize("tokens", [300, 1000, 2500])
def test_with_little_memory_it_is_the_largest_that_fits(tiny_llama, free, tokens):
    free(1 << 33)
    wanted = measure(tiny_llama, kv_budget=tokens // 64 * 64, **THREADS).devices[0]
    free(wanted.taken)
    found = fit_budget(tiny_llama, **THREADS)
    over = measure(tiny_llama, kv_budget=found.budget + 256, **THREADS)  # cells come in multiples of 256
    assert found.memory.devices[0].taken <= wanted.taken < over.devices[0].taken
    assert found.lines()[-1].endswith(": the largest that fits")
    assert found.budget >= tokens // 64 * 64


def test_the_margin_is_left_free(tiny_llama, free):
    free(1 << 33)
    wanted = measure(tiny_llama, kv_budget=1024, **THREADS).devices[0]
    free(wanted.taken + 4 * MIB, margin=4 * MIB)
    found = fit_budget(tiny_llama, **THREADS)
    assert found.budget >= 1024 and found.memory.devices[0].taken <= wanted.taken
    first = found.lines()[0]
    assert first.startswith("budget auto: ") and "- margin 4.0 MiB = " in first and first.endswith(" for the cache")


def test_no_budget_fits(tiny_llama, free):
    free(8 * MIB, margin=7 * MIB)
    with pytest.raises(DoesNotFitError, match="kv_budget = auto: a budget of 256 does not fit on CPU: weights .*7.0 MiB are to stay free"):
        fit_budget(tiny_llama, **THREADS)


def test_sinks_and_recent_tokens_fit_into_it(tiny_llama, free):
    free(1 << 33)
    small = measure(tiny_llama, kv_budget=1024, **THREADS).devices[0].taken
    free(small)
    assert fit_budget(tiny_llama, kv_recent=700, kv_sink=100, **THREADS).budget == 1024


# --- kv_budget="auto" ---


def test_auto_in_python(make_llama, tiny_llama, free, monkeypatch):
    free(1 << 33)
    llm = make_llama(tiny_llama, kv_budget="auto")
    assert llm.kv_config.budget == 3264 and llm.is_endless
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "auto")
    assert make_llama(tiny_llama, n_ctx=512).kv_config.budget == 512
    assert make_llama(tiny_llama, kv_budget=100).kv_config.budget == 100


def test_auto_for_a_model_that_cannot_have_a_budget(tmp_path):
    tiny_models.write_mamba(tmp_path / "mamba.gguf")
    with pytest.raises(ValueError, match="kv_budget is not possible for the architecture 'mamba'"):
        Llama(tmp_path / "mamba.gguf", kv_budget="auto", verbose=False)
    with pytest.raises(FileNotFoundError, match="no such model file"):
        Llama(tmp_path / "none.gguf", kv_budget="auto", verbose=False)
    with pytest.raises(TypeError, match="unknown keyword 'kv_bugdet'"):
        Llama(tmp_path / "none.gguf", kv_budget="auto", kv_bugdet=1)
