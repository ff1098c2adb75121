"""A llama-server for each test, stopped after it. A test fails, and is not skipped, where the server was not built."""

import llama_server
import pytest
import tiny_models


@pytest.fixture
def serve(tiny_llama, tmp_path):
    """serve("--kv-budget", 64, ..., model=PATH, env={...}) starts one; by default 4,096 tokens, batches of 64 and one slot."""
    started = []

    def start(*options, model=tiny_llama, env=None):
        sizes = {"-c": 4096, "-b": 64, "-ub": 64, "-np": 1}
        shared = [word for name, value in sizes.items() if name not in options for word in (name, value)]
        started.append(llama_server.Server(model, tmp_path, *shared, *options, env=env))
        return started[-1]

    yield start
    codes = [server.stop() for server in started]
    assert set(codes) <= {0}, "a server did not end by itself:\n" + "\n".join(server.log()[-2000:] for server in started)


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory):
    """Path of a model whose sixth layer has full attention; the other five have a sliding window of 128."""
    path = tmp_path_factory.mktemp("models") / "tiny-gemma3.gguf"
    tiny_models.write_gemma3(path)
    return path
