"""A plugin of pytest: one ggml-rpc-server, which ggml has as its device RPC0 for the whole run, as tests/device/ wants it.

    CAPKV_TEST_RPC_SERVER=PROGRAM CAPKV_TEST_DEVICE=RPC0 pytest -p rpc_device tests/device
"""

import ctypes
import os
import tempfile
from pathlib import Path

import capkv_edge  # isort: skip; it decides which llama.cpp is loaded
from rpc_servers import RpcServer

from capkv_edge._upstream import library

_server = None


def register(name: str) -> None:
    """Make the devices of a server known to ggml by their names, RPC0 and so on. Without that only those know them who have connected."""
    lib, pointer, text = library(), ctypes.c_void_p, ctypes.c_char_p
    lib.ggml_backend_reg_by_name.argtypes, lib.ggml_backend_reg_by_name.restype = [text], pointer
    lib.ggml_backend_reg_get_proc_address.argtypes, lib.ggml_backend_reg_get_proc_address.restype = [pointer, text], pointer
    lib.ggml_backend_register.argtypes, lib.ggml_backend_register.restype = [pointer], None
    add = lib.ggml_backend_reg_get_proc_address(lib.ggml_backend_reg_by_name(b"RPC"), b"ggml_backend_rpc_add_server")
    lib.ggml_backend_register(ctypes.CFUNCTYPE(pointer, text)(add)(name.encode()))


def pytest_sessionstart(session):
    global _server
    capkv_edge._lib.load()
    _server = RpcServer(os.environ["CAPKV_TEST_RPC_SERVER"], Path(tempfile.mkdtemp(prefix="rpc-")))
    register(_server.name)


def pytest_sessionfinish(session):
    if _server:
        _server.stop()
