"""One conversation with a model: every token is read once, in the order of the conversation.

Knows the model and the chat template, but no commands and no terminal.
"""

import codecs
import time
from dataclasses import dataclass

import llama_cpp

from .. import threads
from ..kv import KvStats, remarks
from ..template import ChatTemplate, Turns
from ..vocab import Vocab
from .pins import Pins
from .recalling import TurnRecall

# positions that ask() leaves free for the reply, and read() for a question and its reply
N_RESERVE, N_RESERVE_ASK = 16, 128


class ContextFullError(Exception):
    """There are too few positions left for a text; nothing of it was read. The message has the numbers."""


@dataclass
class Turn:
    """What the last turn cost. Times are seconds, the rest counts tokens."""

    n_read: int = 0
    t_read: float = 0.0
    n_reply: int = 0
    t_reply: float = 0.0
    waited: float = 0.0  #: share of the reply's time for which a thread waited for a CPU
    end: str = ""  #: why the reply ended: "stop", "length" (max_tokens), "context" (no positions left), "cut" (by the caller)


class Conversation:
    """The turns of one conversation.

    Args:
        llm: a capkv_edge.Llama, with or without a budget, that nothing else uses.
        system: system prompt; "" is none, None is the template's own.
        temp: temperature of the sampling, 0 is greedy.
        max_tokens: longest reply in tokens, 0 is no limit.
        recall: tokens of evicted text that may come back with a turn, 0 is off.
    """

    def __init__(self, llm, system=None, temp=0.8, max_tokens=0, recall=0):
        self.llm, self.temp, self.max_tokens = llm, temp, max_tokens
        self.recall = TurnRecall(llm, recall)
        self._vocab = vocab = Vocab(llm.model)
        self.template = Turns(ChatTemplate(llm.metadata, vocab), system)
        has_bos = vocab.bos is not None and self.template.first[0].startswith(vocab.text(vocab.bos))
        self._head = [vocab.bos] if vocab.adds_bos and not has_bos else []
        n_system = len(self._head + self._tokens(self.template.first[0], special=True)) if self.template.has_system else 0
        self.pins = Pins(llm, n_system)  #: what is never evicted
        self.clear()

    def clear(self) -> None:
        """Forget everything, but pin the system prompt; the cache is empty."""
        self.llm.reset()
        self.pins.begin_anew()
        self.recall.clear()
        self.turn = Turn()
        self._n_turns = 0
        self._open = False  # the user's turn has begun and ask() has not ended it
        self._unread = []  # of a reply that was shown, but is not in the cache: its last token, or all behind what was taken out
        self._has_marker = False  # the reply ended with the template's `stop` as text, which is in the cache

    @property
    def n_tokens(self) -> int:
        """Length of the conversation in tokens, which is the next position."""
        return self.llm.n_tokens

    def said(self) -> tuple:
        """The tokens of what was said, and the position after the template's text that follows it; of both, some may not be read yet."""
        begin = self._begin()
        return self.llm.input_ids[: self.n_tokens].tolist() + self._unread, self.n_tokens + len(begin)

    @property
    def n_ctx(self) -> int | None:
        """Number of positions of the context; None where it has no end."""
        return None if self.llm.is_endless else self.llm.n_ctx()

    def stats(self) -> KvStats | None:
        """Figures of the cache, or None without a budget."""
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
        is_too_long = self.n_ctx is not None and self.n_ctx > n_trained and not self.llm.can_pass_trained
        trained = [f"the model was trained for {n_trained:,} tokens, replies get worse past them"] if is_too_long else []
        notes = [note for note in (self.recall.remark, self.pins.note) if note]
        return trained + remarks(self.llm) + self.template.remarks + notes

    # --- the user's turn ---

    def read(self, text: str, progress=None) -> int:
        """Add a text to the user's turn, which stays open; returns its length in tokens.

        progress(done, total) is called after each batch. After an interrupt, the batches read so far stay in the turn.

        Raises:
            ContextFullError: there is no room for the text; nothing was read.
        """
        tokens = self._begin() + self._tokens(text)
        self._feed(tokens, progress, N_RESERVE_ASK)
        return len(tokens)

    def ask(self, text: str, progress=None) -> None:
        """End the user's turn with a text, and behind it what `recall` finds for it; reply() comes next. Otherwise as read()."""
        asked, after = self._begin() + self._tokens(text), self._tokens(self._parts[1], special=True)
        back = self._tokens(self.recall.find(text, len(asked) + len(after)))
        n_left = self._n_left(N_RESERVE)
        if back and n_left is not None and len(asked + back + after) > n_left:
            self.recall.clear()
            back = []
        begin = self.n_tokens + len(asked)
        try:
            self._feed(asked + back + after, progress, N_RESERVE)
        finally:
            self.recall.put(begin, len(back))
        self.pins.add("the model", begin + len(back), begin + len(back + after))
        self._open = False
        self._n_turns += 1

    @property
    def _parts(self) -> tuple:
        return self.template.later if self._n_turns else self.template.first

    def _begin(self) -> list:
        if self._open:
            return []
        n = self.n_tokens
        behind = self.recall.take_out()
        self.pins.close_gap(self.n_tokens, n - self.n_tokens - len(behind))
        self._unread = behind + self._unread
        head = [] if self._n_turns else self._head
        before = self._parts[0].removeprefix(self.template.stop) if self._has_marker else self._parts[0]
        return head + self._unread + self._tokens(before, special=True)

    def _tokens(self, text: str, special: bool = False) -> list:
        # only the template may give control tokens: "<|im_end|>" in a file must not end the turn
        return self.llm.tokenize(text.encode("utf-8", "replace"), add_bos=False, special=special) if text else []

    def _n_left(self, n_reserve: int) -> int | None:
        return None if self.n_ctx is None else self.n_ctx - self.n_tokens - n_reserve

    def _feed(self, tokens: list, progress, n_reserve: int) -> None:
        n_left = self._n_left(n_reserve)
        if n_left is not None and len(tokens) > n_left:
            raise ContextFullError(
                f"this takes {len(tokens):,} tokens, and {max(n_left, 0):,} of {self.n_ctx:,} positions are left"
            )
        self.turn = Turn()
        t_start = time.perf_counter()
        n_start, n_begin = self.n_tokens, len(self._begin())
        try:
            for i in range(0, len(tokens), self.llm.n_batch):
                self.llm.eval(tokens[i : i + self.llm.n_batch])
                if progress is not None:
                    progress(self.n_tokens - n_start, len(tokens))
        finally:
            self.turn.n_read = self.n_tokens - n_start
            self.turn.t_read = time.perf_counter() - t_start
            if self.turn.n_read > len(self._unread):
                if not self._open:
                    self.pins.add("you", n_start + len(self._unread), n_start + n_begin)
                self._open, self._unread, self._has_marker = True, [], False
            else:
                self._unread = self._unread[self.turn.n_read :]

    # --- the reply ---

    def reply(self):
        """Generate the reply to the turn that ask() ended: yields pieces of text. The caller may stop at any piece."""
        turn, llm = self.turn, self.llm
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        marker = Marker(self.template.stop)
        stop_token = self._marker_token()
        n_start, n_ctx, token = self.n_tokens, self.n_ctx, None
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
                if n_ctx is not None and self.n_tokens + 1 >= n_ctx:
                    turn.end = "context"
                    break
            if rest := marker.feed(decoder.decode(b"", final=True)) + marker.flush():
                yield rest
        finally:
            turn.waited = clock.waited()
            # generate() reads a token when it is asked for the next one, which may not have happened
            if token is not None and self.n_tokens < n_start + turn.n_reply:
                self._unread = [token]

    def _marker_token(self) -> int | None:
        """The token of the template's `stop`, where it is one token. The model may not list it among those that end a reply."""
        tokens = self._tokens(self.template.stop, special=True)
        return tokens[0] if len(tokens) == 1 else None


class Marker:
    """Cuts a stream of text before a marker. Text that may be the beginning of the marker is held back until that is known.
    `found` tells whether the marker came."""

    def __init__(self, text: str):
        self._text, self._held, self.found = text, "", False

    def feed(self, text: str) -> str:
        """The text that can be shown now: nothing behind the marker, nor what may be its beginning."""
        if not self._text or self.found:
            return "" if self.found else text
        shown, mark, _ = (self._held + text).partition(self._text)
        self.found = bool(mark)
        n = 0 if mark else next(n for n in range(len(self._text) - 1, -1, -1) if shown.endswith(self._text[:n]))
        shown, self._held = shown[: len(shown) - n], shown[len(shown) - n :]
        return shown

    def flush(self) -> str:
        """The text that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held
