"""Shared by the tests: a clean environment, the models, and Llamas and contexts that are closed after the test."""

import os

import pytest
import tiny_models

import capkv_edge  # first: it decides which llama.cpp the tests load
from capkv_edge import models


@pytest.fixture(autouse=True)
def isolation(monkeypatch, tmp_path):
    """No test sees the caller's KV options, models, working directory or conversations."""
    for name in list(os.environ):
        if name.startswith(("LLAMA_ARG_", "CAPKV_MODELS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def demo_model():
    """Path of SmolLM2-135M-Instruct. A test fails, and is not skipped, where it is not installed."""
    return models.resolve(models.DEMO)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Path of a llama with random weights: 2 layers, 2 KV heads, 259 tokens in its vocabulary, trained length 4096."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama.gguf"
    tiny_models.write_llama(path)
    return path


@pytest.fixture(scope="session")
def engine(tiny_llama):
    """A bench Engine on the tiny llama, on one thread."""
    from capkv_edge.bench.run.engine import Engine

    with Engine(tiny_llama, n_threads=1) as engine:
        yield engine


@pytest.fixture
def make_llama():
    """Makes a Llama on one thread that prints nothing; keywords as the constructor's."""
    made = []

    def make(path, **options):
        options = {"verbose": False, "n_threads": 1, "n_threads_batch": 1, **options}
        made.append(capkv_edge.Llama(path, **options))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


def held(llm) -> list:
    """The positions that every head of every governed layer holds: one array per head."""
    return [llm.kv_positions(layer, head) for layer in llm.kv_layers for head in range(llm.kv_heads(layer))]


@pytest.fixture(name="held")
def held_fixture():
    return held


@pytest.fixture
def make_context(tiny_llama):
    """Makes a bare_context.Context on the tiny llama with a policy."""
    from bare_context import Context

    made = []

    def make(policy="capkv", **kv):
        made.append(Context(tiny_llama, policy, **kv))
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture
def make_sequences(tiny_llama):
    """Makes a sequences.Context on the tiny llama or another model."""
    from sequences import Context

    made = []

    def make(path=tiny_llama, **options):
        made.append(Context(path, **options))
        return made[-1]

    yield make
    for context in made:
        context.close()
