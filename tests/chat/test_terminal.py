"""capkv-chat in a real terminal: what a person types, and sees."""

import base64
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("no pseudo terminals", allow_module_level=True)

import scripted_chat
from terminal import Terminal

MARKDOWN = "# Fruit\n\nSome **bold** words:\n\n- one\n- two\n\n```\ncode = 1\n```\n\nthe end"


@pytest.fixture
def run(tiny_llama, tmp_path):
    """Starts capkv-chat on the tiny model, which gives these replies; waits for its first prompt."""
    made = []

    def start(*args, replies=(), pause=0.0, rows=30, **env):
        options = ["--threads", "1", "--budget", "256", "--headroom", "512", "--max-tokens", "0", *args]
        command = [sys.executable, scripted_chat.__file__, tiny_llama, *options]
        env = {"REPLIES": "|".join(replies), "PAUSE": str(pause), **env}
        made.append(Terminal(command, rows=rows, **env))
        made[-1].wait_for("/help lists the commands")
        made[-1].settle(0.2)
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


def colors(terminal):
    """The colors behind the characters on the screen."""
    return {cell.bg for row in terminal.screen.buffer.values() for cell in row.values()}


def type_and_wait(terminal, line, what):
    terminal.send(line + "\r")
    terminal.wait_for(what)
    terminal.settle(0.2)


def test_a_reply_streams_as_markdown_above_the_bar_of_the_budget(run):
    terminal = run(replies=[MARKDOWN], pause=0.02)
    terminal.send("go\r")
    terminal.wait_for("Some bold words")
    above, bar = terminal.text().split("Some bold words")
    assert " cells █" in bar and "│" in bar and "tokens so far" in bar  # it is being written, and the bar is below it
    terminal.wait_for("tokens/s")
    terminal.settle(0.2)
    shown = terminal.text()
    assert "**" not in shown and "```" not in shown and " • one\n • two\n" in shown and "code = 1" in shown and "the end" in shown
    assert shown.count(" cells █") + shown.count(" cells ░") + shown.count(" cells │") == 1  # below the prompt alone
    terminal.send("/exit\r")
    assert terminal.end() == 0


def test_a_reply_that_is_longer_than_the_screen_is_all_there(run):
    lines = [f"line {i} of a long reply" for i in range(60)]
    terminal = run(replies=["\n".join(lines)], rows=12)
    type_and_wait(terminal, "go", "tokens/s")
    shown = [line for line in terminal.lines() if line.startswith("line ")]
    assert shown == lines


def test_ctrl_c_stops_a_reply_and_then_ends_the_chat(run):
    terminal = run(replies=["on and on " * 100, "good"], pause=0.01)
    terminal.send("go\r")
    terminal.wait_for("on and on on")
    os.kill(terminal.pid, signal.SIGINT)
    terminal.wait_for("stopped")
    type_and_wait(terminal, "more", "good")
    terminal.send("\x03")
    assert terminal.end() == 0 and "Traceback" not in terminal.text()
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")  # the cursor is shown again


def test_what_was_said_and_typed_is_there_in_the_next_run(run, tmp_path):
    terminal = run(replies=["first", "second"])
    type_and_wait(terminal, "one question", "first")
    type_and_wait(terminal, "another", "second")
    terminal.send("/exit\r")
    assert terminal.end() == 0
    folder = Path(os.environ["XDG_DATA_HOME"]) / "capkv" / "chats"
    assert stat.S_IMODE(os.stat(folder / "history").st_mode) == 0o600
    terminal = run("-c", replies=["third"])
    assert all(text in terminal.text() for text in ("this is one-question: ", "none was read again", "the model: second"))
    terminal.send("\x1b[A\x1b[A")  # twice the arrow upward
    terminal.wait_for("> another")
    terminal.send("\r")
    terminal.wait_for("third")


def test_no_history_leaves_nothing_behind(run):
    terminal = run("--no-history", replies=["first"])
    type_and_wait(terminal, "one", "first")
    terminal.send("/exit\r")
    assert terminal.end() == 0 and not (Path(os.environ["XDG_DATA_HOME"]) / "capkv").exists()


def test_the_tab_key_completes_commands_paths_names_and_settings(run, tmp_path):
    (tmp_path / "a file.txt").write_text("text")
    terminal = run(replies=["first"])
    type_and_wait(terminal, "one question", "first")
    for typed, becomes in [
        ("/sy\t", "> /system"),
        ("/set max\t", "> /set max-tokens"),
        ("/load one\t", "> /load one-question"),
        ("/read a\t", "> /read a file.txt"),
    ]:
        terminal.send(typed)
        terminal.wait_for(becomes)
        terminal.send("\x15")  # empties the line
        terminal.settle(0.2)
    terminal.send("/edit\r")
    terminal.wait_for("edit> one question")


def test_what_is_kept_is_shaded_and_without_colors_it_has_figures(run):
    text = "x" * 900
    terminal = run(replies=["good"])
    type_and_wait(terminal, text, "good")
    type_and_wait(terminal, "/kept", "KV heads that hold it")
    assert "1f6feb" in colors(terminal)
    type_and_wait(terminal, "/copy", "copied 4 characters")
    assert b"\x1b]52;c;" + base64.b64encode(b"good") in terminal.raw
    terminal = run("--no-color", replies=["good"])
    type_and_wait(terminal, text, "good")
    type_and_wait(terminal, "/kept 1", "100% | good")
    assert colors(terminal) == {"default"}


def test_a_terminal_that_can_do_nothing_gets_plain_words(run):
    terminal = run(replies=["some **words**"], TERM="dumb")
    terminal.send("go\r")
    terminal.wait_for("some **words**")
