"""The chat loop: turns and commands. It draws nothing and knows no model: run_chat(talk, ui) takes both.

`talk` is a conversation.Conversation or has the same methods. `ui` has
    ask() -> str            the next input; raises EOFError or KeyboardInterrupt at the end
    edit(text) -> str       the text as the user changes it; raises ValueError where there is no terminal
    write(text)             show a piece of a reply
    end()                   the reply is over
    info(text), error(text) show a line
    shade(found)            show [(title, [(text, share of the heads that hold it)])]
    record(values)          the figures of a turn, for scripts
    copy(text)              put a text into the clipboard; raises ValueError where there is none
    progress(label)         a context manager that gives update(done, total)
"""

from contextlib import closing
from pathlib import Path

from . import again, focus, keeping, kept, limits, pins, reasoning, settings
from .figures import Evictions, evicted_line, stats_lines, turn_line, turn_record
from .recalling import recalled_line, search_lines
from .restoring import ContextFullError

COMMANDS = {
    "/help": "show this list",
    "/read FILE": "put a file into the conversation; then ask about it",
    **again.COMMANDS,
    "/copy": "put the last reply into the clipboard",
    "/set NAME X": "change a setting, as /set temp 0.3; without NAME, show them",
    **kept.COMMANDS,
    "/recall QUERY": "search what was evicted, without asking the model",
    **pins.COMMANDS,
    **focus.COMMANDS,
    **limits.COMMANDS,
    **reasoning.COMMANDS,
    "/stats": "show what the cache holds and costs",
    **keeping.COMMANDS,
    "/clear": "forget everything and begin anew",
    "/exit": "end the chat; so does Ctrl-C or Ctrl-D at the prompt",
}

MULTI_LINE = 'Several lines: Alt+Enter, or end a line with \\, or put """ before and after. To begin a text with /, type //.'
CTRL_C = "Ctrl-C stops a reply, or the reading of a file; what was read or said so far stays in the conversation."
FORGETS = (
    "Note: the cache is full and tokens are being evicted. Each KV head now keeps {budget:,} tokens of what was said "
    "and no more; what was evicted is gone, and answers about it may be wrong."
)
RECALLS = " Its text can be searched: passages with the words of a question come back with it, and are shown (--recall)."
CHANGES = ("/undo", "/system", "/budget", "/pin", "/unpin", "/focus")  # commands that are saved; a turn saves itself
FULL = "/clear begins anew, a larger --ctx makes room for more; with a budget and without --ctx there is no end."


def is_complete(text: str) -> bool:
    """Whether an input needs no further line."""
    if text.startswith('"""'):
        return len(text) >= 6 and text.rstrip().endswith('"""')
    return not text.endswith("\\")


def clean(text: str) -> str:
    """An input without the marks of several lines."""
    if text.startswith('"""'):
        return text.removeprefix('"""').rstrip().removesuffix('"""').strip("\n")
    return "\n".join(line.removesuffix("\\") for line in text.split("\n")).strip()


def read_text(name: str) -> tuple:
    """The text of a file, and the number of bytes that were replaced since they are no UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text.
    """
    data = Path(name).expanduser().read_bytes()
    if b"\0" in data[:8192]:
        raise ValueError("this is not a text file")
    text = data.decode("utf-8", "surrogateescape")  # turns each byte that is no UTF-8 into one surrogate
    return data.decode("utf-8", "replace"), sum("\udc80" <= char <= "\udcff" for char in text)


class Chat:
    """One run of the loop. `n_failed` counts the inputs that could not be carried out.

    Args:
        is_script: Ctrl-C raises KeyboardInterrupt instead of ending the reply or the reading alone.
        keeper: a keeping.Keeper that saves the conversation; None keeps none.
        shows_thinking: show a model's reasoning as it comes instead of folding it.
    """

    def __init__(self, talk, ui, is_script=False, keeper=None, shows_thinking=False):
        self.talk, self.ui, self.is_script, self.keeper = talk, ui, is_script, keeper
        self.fold = reasoning.Fold(talk.marks, shows_thinking)
        self.n_failed = 0
        self._begin()

    def _begin(self) -> None:
        """Take the conversation as it is now as what was told of its evictions."""
        stats = self.talk.stats()
        self._evictions, self._warned = Evictions(self.talk), stats is not None and stats.n_evictions > 0

    def fail(self, text: str) -> None:
        self.n_failed += 1
        self.ui.error(text)

    def say(self, text: str) -> None:
        """One turn: read the text, stream the reply, show what it cost."""
        try:
            with self.ui.progress("reading") as update:
                self.talk.ask(text, update)
        except ContextFullError as err:
            return self.fail(f"{err}. {FULL}")
        except KeyboardInterrupt:
            if self.is_script:
                raise
            self.ui.info(f"stopped after reading {self.talk.turn.n_read:,} tokens; they stay, and no reply was made")
            return self.save()
        if self.talk.recall.found:
            self.ui.info(recalled_line(self.talk.recall.found))
        self.reply(text)

    def reply(self, text: str) -> None:
        """Stream the reply to a text that was asked, and show what the turn cost."""
        try:
            with closing(self.talk.reply()) as pieces:
                for piece in self.fold.replies(pieces, self.ui):
                    self.ui.write(piece)
        except KeyboardInterrupt:
            if self.is_script:
                self.ui.end()
                raise
        self.ui.end()
        evicted = self._evictions.look()
        self.ui.info(turn_line(self.talk))
        self.ui.record(turn_record(self.talk, text, evicted))
        if self.talk.turn.end == "context":
            self.fail(f"the reply stops here: all {self.talk.n_ctx:,} positions are used. {FULL}")
        self._tell(evicted)
        self.save()

    def read(self, name: str) -> None:
        """/read: put a file into the conversation."""
        if not name:
            return self.fail("/read needs a file: /read FILE")
        try:
            text, n_replaced = read_text(name)
        except (OSError, ValueError) as err:
            return self.fail(f"{name}: {getattr(err, 'strerror', None) or err}")
        try:
            with self.ui.progress(f"reading {Path(name).name}") as update:
                n = self.talk.read(f"{Path(name).name}:\n\n{text.strip()}\n\n", update)
        except ContextFullError as err:
            return self.fail(f"{name}: {err}. Nothing was read. {FULL}")
        except KeyboardInterrupt:
            if self.is_script:
                raise
            self.ui.info(f"stopped: the first {self.talk.turn.n_read:,} tokens of {name} are in the conversation")
        else:
            self.ui.info(f"read {n:,} tokens of {name} ({n / max(self.talk.turn.t_read, 1e-9):.0f} tokens/s); now ask about it")
        if n_replaced:
            self.ui.info(f"note: {name} is not all UTF-8: {n_replaced:,} bytes were replaced")
        self._tell(self._evictions.look())
        self.save()

    def _tell(self, evicted: tuple | None) -> None:
        """Say that tokens were evicted: at first what that means, later how many."""
        if evicted is None:
            return
        if self._warned:
            return self.ui.info(evicted_line(self.talk, evicted))
        self._warned = True
        self.ui.info(FORGETS.format(budget=self.talk.stats().config.budget) + RECALLS * self.talk.recall.is_on)

    def save(self) -> None:
        """Save the conversation, where that is done without being asked."""
        try:
            for line in self.keeper.changed() if self.keeper is not None else ():
                self.ui.info(line)
        except OSError as err:
            self.keeper.is_automatic = False
            self.fail(f"the conversation cannot be saved, and is not from here on: {err}")
        except KeyboardInterrupt:
            if self.is_script:
                raise
            self.ui.info("stopped while saving: the conversation is on disk as it was before this turn")

    def finish(self) -> None:
        """Save what is left for the end of the chat."""
        try:
            for line in self.keeper.finish() if self.keeper is not None else ():
                self.ui.info(line)
        except OSError as err:
            self.fail(f"the conversation cannot be saved: {err}")

    def command(self, line: str) -> bool:
        """Carry out a command; False if it ends the chat."""
        name, _, rest = line.partition(" ")
        if name == "/exit":
            return False
        try:
            self._command(name, rest.strip())
        except ContextFullError as err:
            self.fail(f"{err}. {FULL}")
        except (OSError, ValueError) as err:
            self.fail(str(err))
        except KeyboardInterrupt:
            if self.is_script:
                raise
            self.ui.info("stopped")
        return True

    def _command(self, name: str, rest: str) -> None:
        talk, lines = self.talk, []
        if name == "/help":
            width = max(map(len, COMMANDS)) + 1
            lines = [*(f"{command:<{width}}{what}" for command, what in COMMANDS.items()), MULTI_LINE, CTRL_C]
        elif name == "/read":
            self.read(rest)
        elif name == "/recall":
            lines = search_lines(talk.recall, rest)
        elif name == "/stats":
            lines = stats_lines(talk)
        elif name == "/set":
            lines = settings.change(talk, rest)
        elif name == "/copy":
            lines = self._copy()
        elif name == "/clear":
            lines = self._clear()
        elif room := self._rooms().get(name):
            lines = room.command(self, name, rest)
            if name == "/load":
                self._begin()
            elif name in CHANGES:
                self._evictions.look()
                self.save()
        else:
            raise ValueError(f"no such command: {name}; /help lists them")
        for text in lines:
            self.ui.info(text)

    @staticmethod
    def _rooms() -> dict:
        return {usage.split()[0]: room for room in (again, focus, keeping, kept, limits, pins, reasoning) for usage in room.COMMANDS}

    def _copy(self) -> list:
        last = self.talk.messages.last("the model")
        _, text = reasoning.divide(last.text if last else "", self.talk.marks)
        if not text:
            raise ValueError("nothing to copy: there is no reply yet")
        self.ui.copy(text)
        return [f"copied {len(text):,} characters"]

    def _clear(self) -> list:
        self.save()
        self.talk.clear()
        self.talk.focus.drop()
        self._begin()
        if self.keeper is None or self.keeper.name is None:
            return ["cleared"]
        name, _ = self.keeper.name, self.keeper.begin_anew()
        return [f"cleared; /load {name} goes back to what was said"]


def run_chat(talk, ui, chat: Chat | None = None) -> int:
    """Talk until the input ends; returns the number of inputs that could not be carried out."""
    chat = chat or Chat(talk, ui)
    while True:
        try:
            text = clean(ui.ask())
        except EOFError:
            return chat.n_failed
        except KeyboardInterrupt:
            if chat.is_script:
                raise
            return chat.n_failed
        if text.startswith("//"):
            chat.say(text[1:])
        elif text.startswith("/"):
            if not chat.command(text):
                return chat.n_failed
        elif text:
            chat.say(text)
