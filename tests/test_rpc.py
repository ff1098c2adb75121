"""RPC servers as far as it goes without any: names, errors, and what is said of a server that cannot be used. tests/rpc/ has some."""

import socket
import threading

import llama_cpp
import pytest

from capkv_edge import rpc
from capkv_edge.chat import cli

ANSWER = bytes([28, *bytes(7), 7, 0, 0, *bytes(25)])  # its size, a version, what is offered
CLOSED = "it closed the connection: is it a ggml-rpc-server of the same version?"


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock, "127.0.0.1:%d" % sock.getsockname()[1]


@pytest.mark.parametrize("answer, fault", [(ANSWER, ""), (ANSWER[:9], CLOSED), (b"", CLOSED)])
def test_a_server_has_to_answer(listener, answer, fault):
    sock, name = listener
    def serve():
        with sock.accept()[0] as client:
            asked.append(client.recv(100))
            client.sendall(answer)

    asked = []
    thread = threading.Thread(target=serve)
    thread.start()
    assert rpc._fault(name, greet=True) == fault
    thread.join()
    assert asked == [rpc._HELLO] and len(rpc._HELLO) == 1 + 8 + 24


def test_one_that_does_not_is_told_from_one_that_is_not_there(listener, monkeypatch):
    sock, name = listener
    monkeypatch.setattr(rpc, "_SECONDS", 0.2)
    assert rpc._fault(name, greet=False) == ""
    assert rpc._fault(name, greet=True) == "no answer in 0.2 s: it serves another process, or is no ggml-rpc-server"
    sock.close()
    assert rpc._fault(name, greet=True) == "Connection refused"
    assert rpc._fault("127.0.0.1:70000", greet=False)
    assert rpc._fault("no host:1", greet=False)


def test_a_server_that_cannot_be_used_is_refused_before_llama_cpp_connects(monkeypatch, make_llama, tiny_llama):
    monkeypatch.setattr(llama_cpp, "llama_supports_rpc", lambda: True)
    with pytest.raises(OSError, match="rpc_servers = 127.0.0.1:1: 127.0.0.1:1 cannot be used: Connection refused"):
        make_llama(tiny_llama, rpc_servers=["127.0.0.1:1"])


@pytest.mark.parametrize("name", ["host", "host:", ":50052", "host:0", "host:65536", "host:x", "host:-1", "a:1,", "a:1,,b:2", "host:1 "])
def test_a_name_of_another_form_is_refused(make_llama, tiny_llama, name):
    with pytest.raises(ValueError, match=f"rpc_servers = {name}: allowed is HOST:PORT, several with commas between them"):
        make_llama(tiny_llama, rpc_servers=name)


@pytest.mark.skipif(llama_cpp.llama_supports_rpc(), reason="a build with RPC")
def test_libraries_without_rpc_say_so(make_llama, tiny_llama, capsys):
    with pytest.raises(ValueError, match="rpc_servers = a:1,b:2: these libraries were built without RPC .-DGGML_RPC=ON"):
        make_llama(tiny_llama, rpc_servers=["a:1", "b:2"])
    assert cli.main([str(tiny_llama), "--rpc", "a:1", "--prompt", "hello"]) == 2
    assert "capkv-chat: error: rpc_servers = a:1: these libraries were built without RPC" in capsys.readouterr().err
