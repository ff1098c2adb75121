"""What the chat shows: replies on stdout, all else on stderr; in a terminal, an input line with history and completion."""

import sys
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .loop import COMMANDS, is_complete


class PlainUI:
    """The UI of pipes and scripts: inputs are lines. Progress is shown only where stderr is a terminal."""

    def __init__(self, lines=()):
        self._lines = iter(lines or ())
        if hasattr(lines, "reconfigure"):
            lines.reconfigure(errors="surrogateescape")
        self._replaced = set()
        self.console = Console(stderr=True, highlight=False)

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


class TerminalUI(PlainUI):
    """The UI of a terminal. `toolbar()` gives the text below the input line."""

    def __init__(self, toolbar=None):
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings

        super().__init__()
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
            completer=_completer(),
            complete_while_typing=False,
            prompt_continuation=lambda width, number, wraps: " " * width,
            bottom_toolbar=toolbar,
        )

    def ask(self) -> str:
        self.console.print()
        return self._session.prompt("> ")

    def write(self, text: str) -> None:
        super().write(self._wrap.feed(text, self.console.width))

    def end(self) -> None:
        super().write(self._wrap.flush(self.console.width) + "\n")
        self._wrap = WordWrap()


def _completer():
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Commands(Completer):
        """Commands, and after /read the paths."""

        paths = PathCompleter(expanduser=True)

        def get_completions(self, document, event):
            text = document.text_before_cursor
            if text.startswith("/read "):
                name = text[len("/read ") :]
                yield from self.paths.get_completions(Document(name, len(name)), event)
            elif text.startswith("/"):
                for line in COMMANDS:
                    command, takes_more, _ = line.partition(" ")
                    if command.startswith(text):
                        yield Completion(command + takes_more, -len(text), display=line)

    return Commands()
