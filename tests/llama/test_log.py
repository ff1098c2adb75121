"""llama.cpp's log: what is kept of it, and what is shown though nobody asked."""

import logging

import pytest

from capkv_edge import _log, _upstream

ERROR, INFO = 4, 2


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(_upstream, "log_level", lambda: logging.ERROR)


def test_an_error_that_ends_the_process_is_shown(capsys):
    lines = ("CUDA error: out of memory\n", "  current device: 0, in function alloc at ggml-cuda.cu:5\n", "  cudaMalloc(&ptr, size)\n")
    for line in lines:
        _log._take(ERROR, line)
    _log._take(INFO, "what comes after it\n")
    _log.forget()
    assert capsys.readouterr().err == "".join(lines)


def test_other_errors_are_kept_and_not_shown(capsys):
    _log._take(ERROR, "failed to find a memory slot\n")
    assert "memory slot" in _log.reason()
    _log.forget()
    assert not capsys.readouterr().err
