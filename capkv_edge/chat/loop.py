"""The chat loop: turns and commands. It draws nothing and knows no model: run_chat(talk, ui) takes both.

`talk` is a conversation.Conversation or has the same methods. `ui` has
    ask() -> str            the next input; raises EOFError or KeyboardInterrupt at the end
    write(text)             show a piece of a reply
    end()                   the reply is over
    info(text), error(text) show a line
    progress(label)         a context manager that gives update(done, total)
"""

from contextlib import closing
from pathlib import Path

from . import pins
from .conversation import ContextFullError
from .recalling import recalled_line, search_lines

COMMANDS = {
    "/help": "show this list",
    "/read FILE": "put a file into the conversation; then ask about it",
    "/recall QUERY": "search what was evicted, without asking the model",
    **pins.COMMANDS,
    "/stats": "show what the cache holds and costs",
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
ENDS = {"length": "cut at --max-tokens", "context": "the context is full", "cut": "stopped"}
WAITED = 0.15  # a larger share of a reply's time without a CPU is shown; with nothing else running it is about 0.02
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


def size(n_bytes: float) -> str:
    """Bytes as text: "33.8 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024


def cost_lines(talk) -> list:
    """The memory that the cache takes, for the start."""
    stats = talk.stats()
    if stats is None:
        return [f"no budget: the cache is a full one, for {talk.n_ctx:,} tokens, on {talk.device}"]
    config, n_system, n_full = stats.config, talk.pins.n_system, round(stats.bytes_full * stats.n_cells / stats.bytes_kv)
    stay = f"the first {config.sink}, the last {config.recent} and the system prompt ({n_system:,} tokens)" if n_system else ""
    stay = stay or f"the first {config.sink} and the last {config.recent}"
    end = "; the conversation has no end" if talk.n_ctx is None else ""
    return [
        f"budget: {config.budget:,} tokens per KV head; {stay} always stay",
        f"cache: {stats.n_cells:,} cells in {config.type}, {size(stats.bytes_kv + stats.bytes_obs)} on {talk.device}; "
        f"a full cache for {n_full:,} tokens would take {size(stats.bytes_full)}{end}",
    ]


def turn_line(talk) -> str:
    """The line under a reply: speed, cells, evictions."""
    turn, stats = talk.turn, talk.stats()
    parts = [f"{turn.n_reply / turn.t_reply:.1f} tokens/s" if turn.t_reply else "0 tokens"]
    if stats is None:
        parts.append(f"{talk.n_tokens:,} of {talk.n_ctx:,} tokens")
    else:
        parts.append(f"{stats.n_used:,} of {stats.n_cells:,} cells used (budget {stats.config.budget:,})")
        parts.append(f"{stats.n_evicted:,} of {stats.n_tokens:,} tokens evicted")
    if turn.end in ENDS:
        parts.append(ENDS[turn.end])
    if turn.waited > WAITED:
        fewer = f"; --threads {talk.n_threads - 1} may be faster" if talk.n_threads > 1 else ""
        parts.append(f"slow: for {turn.waited:.0%} of the time other programs had the CPU{fewer}")
    return " · ".join(parts)


def toolbar(talk) -> str:
    """The line below the input: a bar of the cells in use, and what is left of the context."""
    stats = talk.stats()
    if talk.n_ctx is None:
        left = f"{talk.n_tokens:,} tokens so far"
    else:
        left = f"{talk.n_ctx - talk.n_tokens:,} of {talk.n_ctx:,} positions left"
    if stats is None:
        return f" {left}"
    n_full = round(20 * stats.n_used / stats.n_cells)
    bar = "█" * n_full + "░" * (20 - n_full)
    return f" cells {bar} {stats.n_used:,}/{stats.n_cells:,} · {stats.n_evicted:,} tokens evicted · {left}"


def stats_lines(talk) -> list:
    """All figures, for /stats."""
    stats = talk.stats()
    used = f"{talk.n_tokens:,} used, no end" if talk.n_ctx is None else f"{talk.n_tokens:,} of {talk.n_ctx:,} used"
    lines = [f"positions   {used}"]
    if stats is None:
        return [*lines, "budget      none: nothing is evicted"]
    config = stats.config
    return [
        *lines,
        f"cells       {stats.n_used:,} of {stats.n_cells:,} used (budget {config.budget:,} + headroom {config.headroom:,})",
        f"evicted     {stats.n_evicted:,} tokens by each KV head, in {stats.n_evictions:,} evictions "
        f"({stats.t_evict_us / 1e6:.2f} s)",
        f"capacity    {stats.capacity:.1%} retained by the last eviction "
        f"({min(stats.capacity_layers):.1%} to {max(stats.capacity_layers):.1%} by layer)",
        f"exact       every token from position {stats.pos_tail:,} on is held by every head",
        f"memory      {size(stats.bytes_total)}: K and V {size(stats.bytes_kv)}, query statistics {size(stats.bytes_obs)}, "
        f"positions {size(stats.bytes_pos)}, work {size(stats.bytes_work)}",
        f"full cache  {size(stats.bytes_full)}, {stats.compression:.1f} times as much",
        f"policy      {config.policy}, sink {config.sink}, recent {config.recent}, seed {config.seed}",
    ]


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

    is_script: Ctrl-C raises KeyboardInterrupt instead of ending the reply or the reading alone.
    """

    def __init__(self, talk, ui, is_script=False):
        self.talk, self.ui, self.is_script = talk, ui, is_script
        self.n_failed = 0
        self._warned = False

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
            return self.ui.info(f"stopped after reading {self.talk.turn.n_read:,} tokens; they stay, and no reply was made")
        if self.talk.recall.found:
            self.ui.info(recalled_line(self.talk.recall.found))
        try:
            with closing(self.talk.reply()) as pieces:
                for piece in pieces:
                    self.ui.write(piece)
        except KeyboardInterrupt:
            if self.is_script:
                self.ui.end()
                raise
        self.ui.end()
        self.ui.info(turn_line(self.talk))
        if self.talk.turn.end == "context":
            self.fail(f"the reply stops here: all {self.talk.n_ctx:,} positions are used. {FULL}")
        self._warn()

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
        self._warn()

    def search(self, query: str) -> None:
        """/recall: show the passages that a query finds."""
        try:
            for line in search_lines(self.talk.recall, query):
                self.ui.info(line)
        except ValueError as err:
            self.fail(str(err))

    def _warn(self) -> None:
        stats = self.talk.stats()
        if not self._warned and stats is not None and stats.n_evictions:
            self._warned = True
            self.ui.info(FORGETS.format(budget=stats.config.budget) + RECALLS * self.talk.recall.is_on)

    def command(self, line: str) -> bool:
        """Carry out a command; False if it ends the chat."""
        name, _, rest = line.partition(" ")
        if name == "/help":
            for command, what in COMMANDS.items():
                self.ui.info(f"{command:<13} {what}")
            self.ui.info(MULTI_LINE)
            self.ui.info(CTRL_C)
        elif name == "/read":
            self.read(rest.strip())
        elif name == "/recall":
            self.search(rest.strip())
        elif name == "/stats":
            for text in stats_lines(self.talk):
                self.ui.info(text)
        elif name in ("/pin", "/pins", "/unpin"):
            try:
                for text in pins.command(self.talk, name, rest.strip()):
                    self.ui.info(text)
            except ValueError as err:
                self.fail(str(err))
        elif name == "/clear":
            self.talk.clear()
            self._warned = False
            self.ui.info("cleared")
        elif name == "/exit":
            return False
        else:
            self.fail(f"no such command: {name}; /help lists them")
        return True


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
