"""llama.cpp's log: a Ctrl-C that comes while a line is taken is not lost; hidden for a while."""

import os
import signal

import pytest
from driving import BUDGET, text

from capkv_edge import _log


def test_an_interrupt_within_the_log_is_raised_after_the_batch(make_llama, tiny_llama, monkeypatch):
    llm = make_llama(tiny_llama, **BUDGET)
    decode, take = llm._ctx.decode, _log._take

    def interrupt(level, line):
        take(level, line)
        os.kill(os.getpid(), signal.SIGINT)

    def log_and_decode(batch):
        decode(batch)
        monkeypatch.setattr(_log, "_take", interrupt)
        _log._callback(1, _log_text, _log_text)
        monkeypatch.setattr(_log, "_take", take)

    from capkv_edge import _lib

    _log_text = _lib.load()[0].new("char[]", b"a line\n")
    monkeypatch.setattr(llm._ctx, "decode", log_and_decode)
    with pytest.raises(KeyboardInterrupt):
        llm.eval(text(100))
    monkeypatch.undo()
    assert llm.n_tokens == 32 == llm.kv_stats().n_tokens
    llm.eval(text(10))  # it is raised once
    assert llm.n_tokens == 42


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_hidden_log_is_as_it_was_afterwards(is_shown, capsys):
    _log.show(is_shown)
    with _log.hidden():
        _log._take(2, "within\n")
    _log._take(2, "after\n")
    _log.show(False)
    assert capsys.readouterr().err == ("after\n" if is_shown else "")
