"""Markdown in a terminal while it streams: blocks that are whole are printed, the last one is drawn anew, with a bar below it."""

import time

from markdown_it import MarkdownIt
from rich.console import Console, Group
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

_SECONDS = 0.08  # least time between two drawings
_PARSER = MarkdownIt().enable("strikethrough").enable("table")


class Reply(Markdown):
    """Markdown in which a line break of the text stays one, as models write lists and verses."""

    def __init__(self, text: str):
        super().__init__(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


def whole_blocks(text: str) -> int:
    """How many characters of a text belong to blocks that no further text can change: all blocks but the last."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    return sum(map(len, text.splitlines(keepends=True)[: starts[-1]])) if len(starts) > 1 else 0


class _Tail:
    """The last lines of something."""

    def __init__(self, what, n_lines: int):
        self._what, self._n_lines = what, n_lines

    def __rich_console__(self, console, options):
        lines = console.render_lines(self._what, options, pad=False)
        for line in lines[-self._n_lines :]:
            yield from line
            yield Segment.line()


class MarkdownStream:
    """One reply.

    Args:
        console: of the terminal.
        status: a function that gives the text of the bar below the reply.
    """

    def __init__(self, console: Console, status=lambda: ""):
        self._console, self._status = console, status
        self._rest, self._is_first, self._drawn = "", True, 0.0
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop", redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def feed(self, text: str) -> None:
        """More of the reply."""
        self._rest += text
        if time.monotonic() - self._drawn < _SECONDS:
            return
        n = whole_blocks(self._rest)
        if n:
            self._print(self._rest[:n])
            self._rest = self._rest[n:]
        bar = Text(self._status(), style="reverse", no_wrap=True, overflow="ellipsis")
        bar.truncate(self._console.width - 1, pad=True)
        tail = _Tail(self._block(self._rest), max(self._console.height - 4, 1))
        self._live.update(Group(tail, bar), refresh=True)
        self._drawn = time.monotonic()

    def end(self) -> None:
        """The reply is over: what is left of it is printed, and the bar is gone."""
        self._live.stop()
        if self._rest.strip():
            self._print(self._rest)
        self._rest = ""

    def _block(self, text: str):
        return Reply(text) if self._is_first else Group(Text(""), Reply(text))

    def _print(self, text: str) -> None:
        self._console.print(self._block(text))
        self._is_first = False
