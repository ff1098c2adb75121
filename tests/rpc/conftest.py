"""Tests over two RPC servers: `make test-rpc` builds them, and names their program in CAPKV_TEST_RPC_SERVER. Else they are left out."""

import os
from pathlib import Path

import pytest
from rpc_servers import RpcServer

NAME = os.environ.get("CAPKV_TEST_RPC_SERVER", "")

collect_ignore_glob = [] if NAME else ["test_*.py"]


@pytest.fixture(scope="session")
def program() -> Path:
    """The ggml-rpc-server of the build under test."""
    return Path(NAME)


@pytest.fixture
def start(program, tmp_path):
    """Starts an RpcServer of a test's own."""
    made = []

    def start():
        made.append(RpcServer(program, tmp_path))
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def servers(program, tmp_path_factory) -> str:
    """Two servers for all tests of this process, as `rpc_servers` has them."""
    folder = tmp_path_factory.mktemp("rpc")
    made = [RpcServer(program, folder) for _ in range(2)]
    yield ",".join(server.name for server in made)
    for server in made:
        server.stop()
