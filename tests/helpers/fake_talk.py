"""Stand-ins for a Conversation and for a UI: replies come from a list, and everything shown is collected in one text."""

from contextlib import contextmanager
from types import SimpleNamespace

from capkv_edge import CapkvConfig, KvStats
from capkv_edge.chat.conversation import ContextFullError, Turn
from capkv_edge.chat.loop import run_chat
from capkv_edge.chat.messages import Messages


class FakeTalk:
    """A Conversation that replies from a list. Words are tokens, and all but the last `budget` of them are evicted.

    A reply that is an exception is raised after the words before it.
    """

    device, n_threads, marks = "CPU", 2, None
    pins = SimpleNamespace(n_system=0, ranges=[])
    focus = SimpleNamespace(drop=lambda: None)
    recall = SimpleNamespace(found=None, is_on=False, remark="")

    def __init__(self, replies=(), n_ctx=1000, budget=256):
        self.replies, self.n_ctx, self.budget = list(replies), n_ctx, budget
        self.clear()

    def clear(self):
        self.turn, self.n_tokens, self.said, self.messages = Turn(), 0, [], Messages()

    def stats(self):
        if self.budget is None:
            return None
        n_evicted = max(0, self.n_tokens - self.budget)
        config = CapkvConfig(budget=self.budget, headroom=128)
        return KvStats(
            *(self.n_tokens, 384, self.n_tokens - n_evicted, n_evicted, int(n_evicted > 0), 10000, 8000, 500, 1500, 0, 0, 0, 8192),
            *(1 << 20, 1 << 10, 1 << 10, 1 << 20, 8 << 20, 0.9, (0.8, 0.95), config),
        )

    def read(self, text, progress=None):
        n = len(text.split())
        if self.n_ctx is not None and self.n_tokens + n > self.n_ctx:
            raise ContextFullError(
                f"this takes {n} tokens, and {self.n_ctx - self.n_tokens} of {self.n_ctx} positions are left"
            )
        self.said.append(text)
        self.n_tokens += n
        self.turn = Turn(n_read=n, t_read=0.5)
        if progress:
            progress(n, n)
        return n

    def ask(self, text, progress=None):
        self.read(text, progress)
        self.messages.add("the model", self.n_tokens, self.n_tokens)

    def reply(self):
        self.turn = Turn(end="cut", t_reply=0.1)
        for word in self.replies.pop(0):
            if isinstance(word, BaseException):
                raise word
            self.turn.n_reply += 1
            self.n_tokens += 1
            self.messages[-1].parts.append([self.n_tokens, word])
            yield word
        self.turn.end = "context" if self.n_ctx is not None and self.n_tokens >= self.n_ctx else "stop"


class Transcript:
    """A UI with inputs from a list; `shown` is all that it was told to show, `records` the figures of the turns.

    In shaded text a letter stands for itself where all heads hold it, and for its token's share in tenths where fewer do.
    """

    def __init__(self, *inputs):
        self.inputs, self.shown, self.records, self.copied, self.edited = list(inputs), "", [], None, ""

    def ask(self):
        if not self.inputs:
            raise EOFError
        text = self.inputs.pop(0)
        self.shown += f"> {text}\n"
        if isinstance(text, BaseException):
            raise text
        return text

    def write(self, text):
        self.shown += text

    def end(self):
        self.shown += "\n"

    def info(self, text):
        self.shown += f"({text})\n"

    def error(self, text):
        self.shown += f"({text})!\n"

    def shade(self, found):
        for title, pieces in found:
            text = "".join(text if share in (None, 1) else str(int(10 * share)) * len(text) for text, share in pieces)
            self.shown += f"({title})\n{text}\n" if pieces else f"({title})\n"

    def record(self, values):
        self.records.append(values)

    def copy(self, text):
        self.copied = text

    def edit(self, text):
        self.shown += f"edit> {text}\n"
        return self.edited

    @contextmanager
    def progress(self, label):
        yield lambda done, total: None


def run(chat, *inputs):
    """Give inputs to a Chat whose UI is a Transcript; returns what it showed for them."""
    chat.ui.inputs, chat.ui.shown = list(inputs), ""
    run_chat(chat.talk, chat.ui, chat)
    return chat.ui.shown
