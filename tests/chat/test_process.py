"""capkv-chat as scripts run it: a process with its own stdin, stdout and signals."""

import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-c", "import sys; from capkv_edge.chat.cli import main; sys.exit(main())"]
FAST = ["--threads", "1", "--temp", "0", "--max-tokens", "5", "--seed", "1", "--budget", "300", "--headroom", "512"]


# the same with replies of which nothing is ASCII
SPEAKING = """
import sys
from capkv_edge.chat import cli, conversation

def reply(self):
    yield "日本"
    yield "語"

conversation.Conversation.reply = reply
sys.exit(cli.main())
"""


def chat(*args, redirect="", data=b"", command=COMMAND, **env):
    """Run it in a shell: (status, stdout, stderr), as bytes and text."""
    words = ["sh", "-c", f'"$@" {redirect}', "sh", *command, *map(str, args)]
    done = subprocess.run(words, input=data, capture_output=True, env={**os.environ, **env}, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "replying"])
def test_ctrl_c_ends_with_130(tiny_llama, tmp_path, reads):
    (tmp_path / "long.txt").write_text("word " * 4000)
    args = [tiny_llama, "--ctx", "9999999", *["-f", "long.txt"] * (50 if reads else 0), "-p", "go on", "-p", "never"]
    args += ["--threads", "1", "--max-tokens", "0", "--budget", "2000"]
    child = subprocess.Popen([*COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if reads:
            while b"cells in " not in (line := child.stderr.readline()):
                assert line
            time.sleep(1)  # so that it is at the tokens: opening a file takes no time
        else:
            assert child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert b"Traceback" not in err and b" cells used" not in err
    assert out == b"" if reads else out.endswith(b"\n")


def test_a_character_that_stdout_cannot_encode_is_replaced_and_said_once(tiny_llama):
    args, command = [tiny_llama, "-p", "a", "-p", "b", *FAST], [sys.executable, "-c", SPEAKING]
    status, out, err = chat(*args, command=command, PYTHONIOENCODING="ascii")
    assert (status, out) == (0, b"???\n???\n") and "Traceback" not in err
    assert err.count("note: the output is in ascii, which lacks a character of the reply: what does not fit is replaced") == 1
    status, out, err = chat(*args, command=command, PYTHONIOENCODING="utf-8")
    assert (status, out.decode()) == (0, "日本語\n日本語\n") and "note: the output" not in err


def test_a_byte_that_stdin_cannot_decode_is_replaced_and_said_once(tiny_llama):
    status, out, err = chat(tiny_llama, *FAST, data=b"d\xe9j\xe0\nvu\xe9\nfine\n", PYTHONIOENCODING="utf-8")
    assert status == 0 and err.count("tokens/s") == 3
    assert err.count("note: the input is not all UTF-8: what does not fit is replaced") == 1
    _, _, err = chat(tiny_llama, *FAST, data="déjà\n".encode(), PYTHONIOENCODING="utf-8")
    assert "note: the input" not in err


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_traceback(tiny_llama, redirect):
    for args in (["-p", "hello"], []):
        status, out, err = chat(tiny_llama, *args, *FAST, redirect=redirect, data=b"hello\n")
        assert status == 0 and "Traceback" not in err and "Error" not in err
        assert bool(out) == (">&-" not in redirect.replace("2>&-", "") and ("<&-" not in redirect or bool(args)))
    status, out, err = chat("none.gguf", redirect=redirect)
    assert (status, out) == (2, b"") and err.count("\n") == (0 if "2>&-" in redirect else 1)


@pytest.mark.parametrize("command", ["--help", "reply"])
def test_a_broken_pipe_is_no_error(tiny_llama, command):
    args = ["--help"] if command == "--help" else [tiny_llama, *FAST, "-p", "one", "-p", "two"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *map(str, args)], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.returncode == 0 and "roken" not in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("tokens/s") == 0
