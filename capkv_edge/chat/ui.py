"""What the chat shows in pipes and scripts: replies on stdout, all else on stderr; or on stdout one JSON object a turn."""

import json
import sys
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .loop import is_complete

_N_ROW = 68  # characters of a row of shaded text


class PlainUI:
    """The UI of pipes and scripts: inputs are lines. Progress is shown only where stderr is a terminal."""

    def __init__(self, lines=(), no_color: bool = False):
        self._lines = iter(lines or ())
        if hasattr(lines, "reconfigure"):
            lines.reconfigure(errors="surrogateescape")
        self._replaced = set()
        self.console = Console(stderr=True, highlight=False, no_color=no_color or None)

    def _note_replaced(self, what: str) -> None:
        if what not in self._replaced:
            self._replaced.add(what)
            self.info(f"note: {what}: what does not fit is replaced")

    def ask(self) -> str:
        """The next input, which may be several lines. Raises EOFError at the end."""
        text = None
        for line in map(self._valid, self._lines):
            text = line.rstrip("\n") if text is None else text + "\n" + line.rstrip("\n")
            if is_complete(text):
                return text
        if text is None:
            raise EOFError
        return text

    def _valid(self, line: str) -> str:
        valid = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if valid.count("\ufffd") > line.count("\ufffd"):
            self._note_replaced("the input is not all UTF-8")
        return valid

    def write(self, text: str) -> None:
        if sys.stdout is None:  # closed before the program started
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "replace").decode(encoding)
        if shown != text:
            self._note_replaced(f"the output is in {encoding}, which lacks a character of the reply")
        sys.stdout.write(shown)
        sys.stdout.flush()

    def end(self) -> None:
        self.write("\n")

    def info(self, text: str) -> None:
        self.console.print(Text(text, style="bright_black"), soft_wrap=not self.console.is_terminal)

    def error(self, text: str) -> None:
        self.console.print(Text("error: " + text, style="red"), soft_wrap=not self.console.is_terminal)

    def close(self) -> None:
        """Leave the terminal as it was."""

    def edit(self, text: str) -> str:
        """The text as the user changes it."""
        raise ValueError("there is no terminal to change a text in: give the new one")

    def copy(self, text: str) -> None:
        """Put a text into the clipboard."""
        raise ValueError("there is no terminal, so no clipboard")

    def record(self, values: dict) -> None:
        """The figures of a turn."""

    def shade(self, found: list) -> None:
        """Texts with the share of heads that hold them, as a column of shares: [(title, [(text, share)])]."""
        for title, pieces in found:
            self.info(title)
            for text, share in shade_rows(pieces):
                self.info(f"{'' if share is None else format(share, '.0%'):>5} | {text}")

    @contextmanager
    def progress(self, label: str):
        """A bar with the time left, which appears where there is more than one batch to read."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tokens, left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        task = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None and done < total:
                task = bar.add_task(label, total=total)
                bar.start()
            if task is not None:
                bar.update(task, completed=done)

        try:
            yield update
        finally:
            bar.stop()


class JsonUI(PlainUI):
    """The UI of programs: on stdout one JSON object a line, for each turn its figures, for what failed {"error": message}."""

    def _print(self, values: dict) -> None:
        PlainUI.write(self, json.dumps(values, ensure_ascii=sys.stdout is None or (sys.stdout.encoding or "").lower() != "utf-8") + "\n")

    def write(self, text: str) -> None:
        """Nothing: the reply is in the object of its turn."""

    def end(self) -> None:
        """Nothing."""

    def record(self, values: dict) -> None:
        self._print(values)

    def error(self, text: str) -> None:
        self._print({"error": text})


def shade_rows(pieces: list) -> list:
    """[(row of text, share)] of [(text, share)]: the share is the mean over the row's characters, None for a remark."""
    rows, row, shares = [], "", []

    def end():
        nonlocal row, shares
        if row.strip():
            rows.append((row, sum(shares) / len(shares)))
        row, shares = "", []

    for text, share in pieces:
        if share is None:
            end()
            rows.append((text, None))
            continue
        for char in text:
            if char == "\n" or len(row) >= _N_ROW and char.isspace():
                end()
            else:
                row += char
                shares.append(share)
    end()
    return rows


class WordWrap:
    """Breaks a stream of text into lines between words. feed() returns what can be shown; a word is held back until it ends."""

    def __init__(self):
        self._column, self._word = 0, ""

    def feed(self, text: str, width: int) -> str:
        shown = []
        for char in text:
            if not char.isspace():
                self._word += char
                if cell_len(self._word) < width:
                    continue
            shown.append(self.flush(width))
            if char == "\n":
                self._column = 0
                shown.append(char)
            elif char.isspace() and self._column < width:
                self._column += 1
                shown.append(char)
        return "".join(shown)

    def flush(self, width: int) -> str:
        word, self._word = self._word, ""
        n = cell_len(word)
        if self._column and self._column + n > width:
            self._column, word = 0, "\n" + word
        self._column += n
        return word
