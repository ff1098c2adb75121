"""RPC servers: ggml-rpc-server on other machines, which hold layers of a model with their cache and compute them.

llama.cpp ends the process where it cannot connect to a server, and where one is gone later. So each server is tried before llama.cpp
connects to it, and a line on stderr names the one that is gone.
"""

import ctypes
import socket
import sys
import time

import llama_cpp

from . import _upstream
from ._lib import last_error, load

_SECONDS = 5  # to wait for a server's answer

#: RPC_CMD_HELLO of ggml-rpc.cpp: its number, the size of what follows, and no offer of another transport than TCP
_HELLO = bytes([14]) + (24).to_bytes(8, "little") + bytes(24)
_N_ANSWER = 8 + 28  # bytes: a size, then the version and what the server offers

_known = []  # servers that this process has used
_on_abort = None  # referenced for as long as ggml may call it


def _fault(server: str, greet: bool) -> str:
    """Why a server cannot be used, "" if nothing is known against it. greet: it has to answer, which takes that it is free."""
    host, _, port = server.partition(":")
    try:
        with socket.create_connection((host, int(port)), _SECONDS) as connection:
            if greet:
                connection.sendall(_HELLO)
                with connection.makefile("rb") as answer:
                    if len(answer.read(_N_ANSWER)) < _N_ANSWER:
                        return "it closed the connection: is it a ggml-rpc-server of the same version?"
    except TimeoutError:
        return f"no answer in {_SECONDS} s: it serves another process, or is no ggml-rpc-server"
    except (OSError, OverflowError, UnicodeError) as err:
        return getattr(err, "strerror", None) or str(err)
    return ""


def _is_name(server: str) -> bool:
    """Whether it is HOST:PORT. What is not is refused by capkv_rpc_devices(), which says what is allowed."""
    host, _, port = server.partition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _gone() -> dict:
    """{server: why it cannot be reached} of those that this process has used. One that is ending may take connections for a moment."""
    for _ in range(10):
        if gone := {server: fault for server in _known if (fault := _fault(server, greet=False))}:
            return gone
        time.sleep(0.1)
    return {}


def _name_what_is_gone() -> None:
    """Have ggml call us when it is about to end the process."""
    global _on_abort

    def tell(message):
        text = message.decode("utf-8", "replace")
        print(text, file=sys.stderr)
        for server, fault in _gone().items() if "RPC" in text else ():
            print(f"the RPC server {server} is gone ({fault}): llama.cpp cannot go on without it and ends the process", file=sys.stderr)
        sys.stderr.flush()

    try:
        setter = _upstream.library().ggml_set_abort_callback
    except AttributeError:  # not on Windows, where a library does not show what the libraries that it loads have
        return
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(tell)
    setter.argtypes, setter.restype = [type(_on_abort)], ctypes.c_void_p
    setter(_on_abort)


def devices(servers) -> ctypes.Array:
    """Connect to RPC servers.

    Args:
        servers: "HOST:PORT,HOST:PORT", or a sequence of "HOST:PORT".

    Returns:
        For `llama_model_params.devices`: the devices of the servers, those of this machine, and NULL. It must live until the model is
        loaded.

    Raises:
        ValueError: a name is not of this form, or the libraries were built without RPC.
        OSError: a server cannot be reached, or does not answer.
    """
    ffi, lib = load()
    text = servers if isinstance(servers, str) else ",".join(servers)
    names = text.split(",") if llama_cpp.llama_supports_rpc() else []
    for server in filter(_is_name, names):
        if fault := _fault(server, greet=server not in _known):
            raise OSError(f"rpc_servers = {text}: {server} cannot be used: {fault}")
    if names and _on_abort is None:
        _name_what_is_gone()
    found = (ctypes.c_void_p * (llama_cpp.llama_max_devices() + 1))()
    if lib.capkv_rpc_devices(text.encode(), ffi.cast("void **", ctypes.addressof(found)), llama_cpp.llama_max_devices()) < 0:
        raise ValueError(last_error())
    _known.extend(server for server in names if server not in _known)
    return found
