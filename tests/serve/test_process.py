"""capkv-serve as a process: it answers, asks for its key, and ends like any program."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import llama_server
import pytest


@pytest.fixture
def serve(tiny_llama, tmp_path):
    """serve(*options): (process, URL) of a server that answers /health."""
    started = []

    def start(*options):
        port = llama_server.free_port()
        code = "import sys\nfrom capkv_edge.serve.cli import main\nsys.exit(main())"
        command = [sys.executable, "-c", code, tiny_llama, "--port", port, "-t", 1, *options, "--", "-b", 64, "-ub", 64, "--offline"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        started.append(process)
        deadline = time.monotonic() + llama_server.START_S
        while ask(f"http://127.0.0.1:{port}/health")[0] != 200:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        return process, f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def ask(url, body=None, **headers):
    request = urllib.request.Request(url, body and body.encode(), {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers
    except OSError:
        return 0, "", {}


CHAT = '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}'


def test_it_answers_this_machine_and_ends_when_it_is_told(serve, tmp_path):
    process, url = serve("--budget", 128, "--save-dir", tmp_path / "slots")
    status, text, _ = ask(url + "/v1/chat/completions", CHAT)
    assert status == 200 and '"kv":{"slot":' in text and '"budget":128' in text
    assert ask(url + "/metrics")[0] == 200 and "<html" in ask(url + "/")[1]
    assert ask(url + "/slots/0?action=save", '{"filename": "a.bin"}')[0] == 200
    assert (tmp_path / "slots" / "a.bin").stat().st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert "4 slots with a budget of 128 tokens each" in (tmp_path / "log").read_text()


def test_without_the_key_there_is_no_answer(serve):
    _, url = serve("--api-key", "secret", "--no-page")
    assert ask(url + "/v1/chat/completions", CHAT)[0] == 401
    assert ask(url + "/")[0] == 404
    for path in ("/slots", "/slots/0/kept", "/props", "/metrics"):
        assert ask(url + path)[0] == 401
        assert ask(url + path, Authorization="Bearer secret")[0] == 200
    assert ask(url + "/v1/chat/completions", CHAT, Authorization="Bearer secret")[0] == 200


def test_other_sites_in_a_browser_get_no_answer(serve):
    _, url = serve()
    assert ask(url + "/props", Origin="https://evil.example")[2].get("Access-Control-Allow-Origin") is None
    assert ask(url + "/props", Origin="http://localhost:3000")[2].get("Access-Control-Allow-Origin") == "http://localhost:3000"
