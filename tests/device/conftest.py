"""Tests of one ggml device, which CAPKV_TEST_DEVICE names: Vulkan0, CUDA0, Metal. Without a name they are left out."""

import os

import pytest
import scorer
import tiny_models
from sequences import Context

from capkv_edge import _log

NAME = os.environ.get("CAPKV_TEST_DEVICE", "")

collect_ignore_glob = [] if NAME else ["test_*.py"]


def pytest_report_header():
    return f"device: {NAME}" if NAME else "tests/device is left out: CAPKV_TEST_DEVICE names no device"


@pytest.fixture(scope="session")
def device():
    """The name of the device; the run ends where there is none of that name."""
    if NAME not in scorer.devices():
        pytest.exit(f"CAPKV_TEST_DEVICE = {NAME}: allowed is one of {', '.join(scorer.devices())}", 2)
    return NAME


@pytest.fixture
def open_on(tiny_llama):
    """Opens a sequences.Context on a device, with its whole cache there: open_on(device, path, **options). Batches are long, since a
    device that stands in for a GPU takes about as long for a short one."""
    made = []

    def open_on(device, path=tiny_llama, **options):
        context = Context(path, device=device, **{"n_batch": 128, **options})
        made.append(context)
        # a device of the RPC backend has a buffer for each server
        assert {name.partition("[")[0] for name in _log.cache_buffers()} == {device.partition("[")[0]}
        return context

    yield open_on
    for context in made:
        context.close()


@pytest.fixture(scope="session")
def wide_llama(tmp_path_factory):
    """Path of a tiny llama with heads of 64: from there on llama.cpp stores quantized keys and values rotated."""
    path = tmp_path_factory.mktemp("models") / "wide.gguf"
    tiny_models.write_llama(path, n_embd=256)
    return path


@pytest.fixture(scope="session")
def windows(tmp_path_factory):
    """Path of a tiny Gemma 3, five of whose six layers have sliding windows."""
    path = tmp_path_factory.mktemp("models") / "gemma3.gguf"
    tiny_models.write_gemma3(path)
    return path
