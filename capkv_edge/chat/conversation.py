"""One conversation with a model: every token is read once, in the order in which it was said.

Knows the model and the chat template; nothing of commands or terminals.
"""

import codecs
import time
from dataclasses import dataclass

import llama_cpp

from .. import threads
from ..kv import KvStats, remarks
from ..template import ChatTemplate, Turns
from ..vocab import Vocab

# positions that are left free for the reply, and by a file also for the question about it
N_RESERVE, N_RESERVE_ASK = 16, 128


class ContextFullError(Exception):
    """The positions that are left do not suffice; nothing was read. The message has the numbers."""


@dataclass
class Turn:
    """What the last turn cost. Times are seconds, the rest counts tokens."""

    n_read: int = 0
    t_read: float = 0.0
    n_reply: int = 0
    t_reply: float = 0.0
    waited: float = 0.0  #: share of the reply's time for which a thread had no CPU to run on
    end: str = ""  #: "stop", "length" (max_tokens), "context" (no positions left) or "cut" (the caller left off)


class Conversation:
    """Turns on a Llama, which it has to itself.

    Args:
        llm: a capkv_edge.Llama, with a budget or without.
        system: system prompt; "" for none, None for the template's own.
        temp: temperature of the sampling, 0 is greedy.
        max_tokens: longest reply in tokens, 0 for as long as it gets.
    """

    def __init__(self, llm, system=None, temp=0.8, max_tokens=0):
        self.llm, self.temp, self.max_tokens = llm, temp, max_tokens
        self._vocab = vocab = Vocab(llm.model)
        self.template = Turns(ChatTemplate(llm.metadata, vocab), system)
        has_bos = vocab.bos is not None and self.template.first[0].startswith(vocab.text(vocab.bos))
        self._head = [vocab.bos] if vocab.adds_bos and not has_bos else []
        self.clear()

    def clear(self) -> None:
        """Forget everything; the cache is empty."""
        self.llm.reset()
        self.turn = Turn()
        self._n_turns = 0
        self._open = False  # the user's turn has begun and was not handed over yet
        self._unread = []  # the end of a reply that was shown but not read back in
        self._has_marker = False  # the reply ended with the template's marker as text, which is in the cache

    @property
    def n_tokens(self) -> int:
        """Tokens that the conversation is long: the next position."""
        return self.llm.n_tokens

    @property
    def n_ctx(self) -> int:
        """Positions that there are."""
        return self.llm.n_ctx()

    def stats(self) -> KvStats | None:
        """KvStats, or None without a budget."""
        return self.llm.kv_stats() if self.llm.kv_config is not None else None

    @property
    def device(self) -> str:
        """The devices that hold the cache."""
        return self.llm.cache_device

    @property
    def n_threads(self) -> int:
        """CPU threads that replies are generated with."""
        return self.llm.n_threads

    def remarks(self) -> list:
        """What may surprise the user at the start, one line each."""
        n_trained = llama_cpp.llama_model_n_ctx_train(self.llm.model)
        trained = [f"the model was trained for {n_trained:,} tokens, replies get worse past them"] if self.n_ctx > n_trained else []
        return trained + remarks(self.llm) + self.template.remarks

    # --- the user's turn ---

    def read(self, text: str, progress=None) -> int:
        """Put a text into the user's turn, which stays open; returns its length in tokens.

        progress(done, total) is called after each batch. An interrupt leaves what was read so far in the turn.

        Raises:
            ContextFullError: no room for it; nothing was read.
        """
        tokens = self._begin() + self._tokens(text)
        self._feed(tokens, progress, N_RESERVE_ASK)
        return len(tokens)

    def ask(self, text: str, progress=None) -> None:
        """End the user's turn with a text: reply() comes next. As read() otherwise."""
        _, after = self._parts
        self._feed(self._begin() + self._tokens(text) + self._tokens(after, special=True), progress, N_RESERVE)
        self._open = False
        self._n_turns += 1

    @property
    def _parts(self) -> tuple:
        return self.template.later if self._n_turns else self.template.first

    def _begin(self) -> list:
        if self._open:
            return []
        head = [] if self._n_turns else self._head
        before = self._parts[0].removeprefix(self.template.stop) if self._has_marker else self._parts[0]
        return head + self._unread + self._tokens(before, special=True)

    def _tokens(self, text: str, special: bool = False) -> list:
        # only the template's own words may be control tokens: a file that holds "<|im_end|>" ends no turn
        return self.llm.tokenize(text.encode("utf-8", "replace"), add_bos=False, special=special) if text else []

    def _feed(self, tokens: list, progress, n_reserve: int) -> None:
        n_left = self.n_ctx - self.n_tokens - n_reserve
        if len(tokens) > n_left:
            raise ContextFullError(
                f"this takes {len(tokens):,} tokens, and {max(n_left, 0):,} of {self.n_ctx:,} positions are left"
            )
        self.turn = Turn()
        t_start = time.perf_counter()
        n_start = self.n_tokens
        try:
            for i in range(0, len(tokens), self.llm.n_batch):
                self.llm.eval(tokens[i : i + self.llm.n_batch])
                if progress is not None:
                    progress(self.n_tokens - n_start, len(tokens))
        finally:
            self.turn.n_read = self.n_tokens - n_start
            self.turn.t_read = time.perf_counter() - t_start
            if self.turn.n_read:
                self._open, self._unread, self._has_marker = True, [], False

    # --- the reply ---

    def reply(self):
        """Generate the reply to what ask() handed over: yields pieces of text. May be left off at any point."""
        turn, llm = self.turn, self.llm
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        marker = Marker(self.template.stop)
        stop_token = self._marker_token()
        n_start, token = self.n_tokens, None
        t_start, clock = time.perf_counter(), threads.Clock()
        turn.end = "cut"
        try:
            for token in llm.generate([], reset=False, temp=self.temp):
                if token == stop_token or self._vocab.is_eog(token):
                    token, turn.end = None, "stop"
                    break
                turn.n_reply += 1
                turn.t_reply = time.perf_counter() - t_start
                yield marker.feed(decoder.decode(self._vocab.piece(token)))
                if marker.found:
                    turn.end, self._has_marker = "stop", True
                    break
                if self.max_tokens and turn.n_reply >= self.max_tokens:
                    turn.end = "length"
                    break
                if self.n_tokens + 1 >= self.n_ctx:
                    turn.end = "context"
                    break
            if rest := marker.feed(decoder.decode(b"", final=True)) + marker.flush():
                yield rest
        finally:
            turn.waited = clock.waited()
            # the last token is read when the next one is asked for, which may not have happened
            if token is not None and self.n_tokens < n_start + turn.n_reply:
                self._unread = [token]

    def _marker_token(self) -> int | None:
        """The control token of a guessed template's marker, where the model has one that it does not end its replies with."""
        tokens = self._tokens(self.template.stop, special=True)
        return tokens[0] if len(tokens) == 1 else None


class Marker:
    """Takes what ends a reply out of a stream of text; what may be its beginning waits. `found` says that it came."""

    def __init__(self, text: str):
        self._text, self._held, self.found = text, "", False

    def feed(self, text: str) -> str:
        """What can be shown of the text so far: nothing behind the marker."""
        if not self._text or self.found:
            return "" if self.found else text
        shown, mark, _ = (self._held + text).partition(self._text)
        self.found = bool(mark)
        n = 0 if mark else next(n for n in range(len(self._text) - 1, -1, -1) if shown.endswith(self._text[:n]))
        shown, self._held = shown[: len(shown) - n], shown[len(shown) - n :]
        return shown

    def flush(self) -> str:
        """What still waits, at the end of the stream."""
        held, self._held = self._held, ""
        return held
