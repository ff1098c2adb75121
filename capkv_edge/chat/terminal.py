"""The UI of a terminal: an input line with history and completion, Markdown with a bar below it, shaded text."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from . import clipboard
from .loop import COMMANDS, is_complete
from .markdown import MarkdownStream
from .ui import PlainUI, WordWrap

#: (least share of heads that hold a token, color behind it), on a dark background and on a light one
_DARK = ((0.999, "#1f6feb"), (0.75, "#1a57b5"), (0.5, "#163f80"), (0.25, "#122b54"), (0.05, "#0e1c33"))
_LIGHT = ((0.999, "#3b86d8"), (0.75, "#6aa5e3"), (0.5, "#98c1ec"), (0.25, "#c2dbf4"), (0.05, "#e6f0fb"))
_GONE = "dim"
_LEVELS = ("all", "over 3/4", "over half", "over 1/4", "fewer", "almost none")


def shades() -> tuple:
    """((least share of heads that hold a token, its style), ...) for this terminal's background: COLORFGBG may say that it is light."""
    is_light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
    text, levels = ("black", _LIGHT) if is_light else ("white", _DARK)
    return tuple((least, f"{text} on {color}") for least, color in levels)


def style(share: float) -> str:
    """The style of a token that this share of the heads holds."""
    return next((one for least, one in shades() if share >= least), _GONE)


class TerminalUI(PlainUI):
    """The UI of a terminal.

    Args:
        toolbar: a function that gives the text below the input line, and below a reply while it is generated.
        words: {command: function that gives what may stand behind it}, for completion.
        history: a file that keeps what was typed; None keeps nothing.
        no_color: no colors.
    """

    def __init__(self, toolbar=None, words=None, history: Path | None = None, no_color: bool = False):
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.output import ColorDepth

        super().__init__(no_color=no_color)
        self._out = Console(highlight=False, no_color=no_color or None)
        self._toolbar, self._reply = toolbar or (lambda: ""), None
        self._is_plain = self._out.is_dumb_terminal or not self._out.is_terminal
        self._wrap = WordWrap()
        keys = KeyBindings()

        @keys.add("enter")
        def _(event):
            if is_complete(event.current_buffer.text):
                event.current_buffer.validate_and_handle()
            else:
                event.current_buffer.insert_text("\n")

        @keys.add("escape", "enter")
        def _(event):
            event.current_buffer.insert_text("\n")

        self._session = PromptSession(
            multiline=True,
            key_bindings=keys,
            completer=_completer(words or {}),
            complete_while_typing=False,
            prompt_continuation=lambda width, number, wraps: " " * width,
            bottom_toolbar=toolbar,
            history=_history(history),
            color_depth=ColorDepth.DEPTH_1_BIT if self._out.no_color else None,
        )

    def ask(self) -> str:
        self.console.print()
        return self._session.prompt("> ")

    def edit(self, text: str) -> str:
        return self._session.prompt("edit> ", default=text)

    def copy(self, text: str) -> None:
        clipboard.copy(text)

    def write(self, text: str) -> None:
        if self._is_plain:
            return super().write(self._wrap.feed(text, self.console.width))
        if self._reply is None:
            self._reply = MarkdownStream(self._out, self._toolbar)
        self._reply.feed(text)

    def end(self) -> None:
        if self._is_plain:
            super().write(self._wrap.flush(self.console.width) + "\n")
            self._wrap = WordWrap()
        self.close()

    def close(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.end()

    def shade(self, found: list) -> None:
        if self._is_plain or self._out.no_color:
            return super().shade(found)
        for title, pieces in found:
            self.info(title)
            text = Text()
            for piece, share in pieces:
                text.append(piece, "bright_black italic" if share is None else style(share))
            if pieces:
                self._out.print(text)
        legend = Text("KV heads that hold it: ")
        for label, (_, one) in zip(_LEVELS, (*shades(), (0, _GONE))):
            legend.append(f" {label} ", one)
            legend.append(" ")
        self._out.print(legend)

    @contextmanager
    def progress(self, label: str):
        """A spinner at once, and a bar with the time left where there is more than one batch to read."""
        spinner = (SpinnerColumn(), TextColumn("{task.description}"))
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("tokens, left"), TimeRemainingColumn())
        with Progress(*spinner, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(label, total=None)

            def update(done: int, total: int) -> None:
                if done < total and len(bar.columns) == len(spinner):
                    bar.columns = (*spinner, *columns)
                bar.update(task, completed=done, total=total)

            yield update


def _history(path: Path | None):
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as err:
        print(f"note: what is typed is not kept: {path}: {err.strerror}", file=sys.stderr)
        return InMemoryHistory()
    return FileHistory(str(path))


def _completer(words: dict):
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Commands(Completer):
        """Commands, and behind some of them what may stand there: paths, names."""

        paths = PathCompleter(expanduser=True)

        def get_completions(self, document, event):
            text = document.text_before_cursor
            name, blank, rest = text.partition(" ")
            if name == "/read" and blank:
                yield from self.paths.get_completions(Document(rest, len(rest)), event)
            elif name in words and blank:
                yield from (Completion(word, -len(rest)) for word in words[name]() if word.startswith(rest))
            elif text.startswith("/"):
                for line in COMMANDS:
                    command, takes_more, _ = line.partition(" ")
                    if command.startswith(text):
                        yield Completion(command + takes_more, -len(text), display=line)

    return Commands()
