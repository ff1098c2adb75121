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
from .focus import Focus
from .marker import Marker
from .messages import Messages
from .pins import Pins
from .reasoning import find_marks, mark_pieces
from .recalling import TurnRecall
from .restoring import N_RESERVE, ContextFullError, Restoring
from .settings import Settings

# positions that read() leaves free for a question and its reply
N_RESERVE_ASK = 128


@dataclass
class Turn:
    """What the last turn cost. Times are seconds, the rest counts tokens."""

    n_read: int = 0
    t_read: float = 0.0
    n_reread: int = 0  #: tokens that had been read before and were read again: behind what recall took out, or after going back
    n_reply: int = 0
    t_reply: float = 0.0
    waited: float = 0.0  #: share of the reply's time for which a thread waited for a CPU
    end: str = ""  #: why the reply ended: "stop", "length" (max_tokens), "context" (no positions left), "cut" (by the caller)


class Conversation(Restoring):
    """The turns of one conversation.

    Args:
        llm: a capkv_edge.Llama, with or without a budget, that nothing else uses.
        system: system prompt; "" is none, None is the template's own.
        temp: temperature of the sampling, 0 is greedy.
        max_tokens: longest reply in tokens, 0 is no limit.
        recall: tokens of evicted text that may come back with a turn, 0 is off.
        sampling: further settings.Settings by name, as top_p.
    """

    def __init__(self, llm, system=None, temp=0.8, max_tokens=0, recall=0, **sampling):
        self.llm = llm
        self.settings = Settings(temp=temp, max_tokens=max_tokens, **sampling)
        self._given_seed = None
        self.recall = TurnRecall(llm, recall)
        self._vocab = Vocab(llm.model)
        self.messages = Messages()
        self.pins = Pins(llm, self.messages)  #: what is never evicted
        self.focus = Focus(llm)  #: the question that takes part in what is evicted
        self._set_template(system)
        self.clear()

    def _set_template(self, system: str | None) -> None:
        vocab = self._vocab
        self.system = system
        self.template = Turns(ChatTemplate(self.llm.metadata, vocab), system)
        #: what is around the reasoning of a thinking model, None for another
        self.marks = find_marks(self.llm.metadata.get("tokenizer.chat_template", ""), self.template.first[1])
        self._mark_pieces = mark_pieces(self.marks, vocab)
        has_bos = vocab.bos is not None and self.template.first[0].startswith(vocab.text(vocab.bos))
        self._head = [vocab.bos] if vocab.adds_bos and not has_bos else []

    @property
    def _n_first(self) -> int:
        """Tokens before the user's first text."""
        return len(self._head + self._tokens(self.template.first[0], special=True))

    @property
    def _n_system(self) -> int:
        """Tokens of the system prompt, with the template's text around it."""
        return self._n_first if self.template.has_system else 0

    def clear(self) -> None:
        """Forget everything, but pin the system prompt; the cache is empty."""
        self.llm.reset()
        self.messages.clear()
        self.pins.begin_anew(self._n_system)
        self.recall.begin_anew()
        self._begin_turn()
        self._open = False  # the user's turn has begun and ask() has not ended it
        self._unread = []  # of a reply that was shown, but is not in the cache: its last token, or all behind what was taken out

    def _begin_turn(self, n_reread: int = 0) -> None:
        self.turn = Turn(n_reread=n_reread)
        self._n_reread = n_reread  # of the turn to come

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

    def heads(self) -> list:
        """The positions that each KV head holds, of all layers that the budget governs: int32 [n] each."""
        llm = self.llm
        return [llm.kv_positions(layer, head) for layer in llm.kv_layers for head in range(llm.kv_heads(layer))]

    @property
    def seed(self) -> int | None:
        """Seed of the sampling, where one was set while the conversation ran."""
        return self._given_seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._given_seed = seed
        self.llm.set_seed(seed)

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

    def look_for(self, text: str) -> int:
        """Let a question take part in what is evicted from here on, in place of the one before; returns how many of its queries are held.

        It is read as the next turn of the user, or the end of the open one, and removed again.

        Raises:
            ValueError: there is no such question, its policy keeps no sample of queries, or there is no room for it.
        """
        before = [] if self._open else self._before()
        return self.focus.set(text, before + self._tokens(text) + self._tokens(self._parts[1], special=True))

    def read(self, text: str, progress=None) -> int:
        """Add a text to the user's turn, which stays open; returns its length in tokens.

        progress(done, total) is called after each batch. After an interrupt, the batches read so far stay in the turn.

        Raises:
            ContextFullError: there is no room for the text; nothing was read.
        """
        before, tokens = self._begin(), self._tokens(text)
        self._feed(before + tokens, progress, N_RESERVE_ASK, (text, len(before), len(tokens)))
        return len(before + tokens)

    def piece(self, token: int) -> bytes:
        """What a token adds to the text, which may be a part of a character; nothing for a control token, unless it is around reasoning."""
        return self._mark_pieces.get(token) or self._vocab.piece(token)

    def text(self, ids: list) -> str:
        """The text of some tokens, without control tokens. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def ask(self, text: str, progress=None) -> None:
        """End the user's turn with a text, and behind it what `recall` finds for it; reply() comes next. Otherwise as read()."""
        before, asked = self._begin(), self._tokens(text)
        after = self._tokens(self._parts[1], special=True)
        back = self._tokens(self.recall.find(text, len(before + asked + after)))
        n_left = self._n_left(N_RESERVE)
        if back and n_left is not None and len(before + asked + back + after) > n_left:
            self.recall.clear()
            back = []
        begin = self.n_tokens + len(before + asked)
        try:
            with self.recall.pinned(begin, len(back)):
                self._feed(before + asked + back + after, progress, N_RESERVE, (text, len(before), len(asked)))
        finally:
            self.recall.put(begin, len(back))
        self._end_turn(begin + len(back), len(after))

    def ask_again(self, progress=None) -> None:
        """End the user's turn once more, after go_back() to where the message of the model began. Raises as ask()."""
        after = self._tokens(self._parts[1], special=True)
        begin = self.n_tokens
        self._feed(after, progress, N_RESERVE)
        self._end_turn(begin, len(after))

    def _end_turn(self, header: int, n: int) -> None:
        self.messages.add("the model", header, header + n)
        self._open = False

    @property
    def _parts(self) -> tuple:
        return self.template.later if self.messages.n_replies else self.template.first

    @property
    def _has_marker(self) -> bool:
        return bool(self.messages) and self.messages[-1].has_marker

    def _begin(self) -> list:
        if self._open:
            return []
        n = self.n_tokens
        behind = self.recall.take_out()
        n_out = n - self.n_tokens - len(behind)
        self.messages.shift(self.n_tokens + n_out, -n_out)
        self._n_reread += len(behind)
        self._unread = behind + self._unread
        return self._before()

    def _before(self) -> list:
        head = [] if self.messages.n_replies else self._head
        before = self._parts[0].removeprefix(self.template.stop) if self._has_marker else self._parts[0]
        return head + self._unread + self._tokens(before, special=True)

    def _tokens(self, text: str, special: bool = False) -> list:
        # only the template may give control tokens: "<|im_end|>" in a file must not end the turn
        return self.llm.tokenize(text.encode("utf-8", "replace"), add_bos=False, special=special) if text else []

    def _n_left(self, n_reserve: int) -> int | None:
        return None if self.n_ctx is None else self.n_ctx - self.n_tokens - n_reserve

    def _feed(self, tokens: list, progress, n_reserve: int, said: tuple = ("", 0, 0)) -> None:
        """Read tokens of the user's turn. said: the user's text, how many tokens stand before it, and how many are its own."""
        n_left = self._n_left(n_reserve)
        if n_left is not None and len(tokens) > n_left:
            raise ContextFullError(
                f"this takes {len(tokens):,} tokens, and {max(n_left, 0):,} of {self.n_ctx:,} positions are left"
            )
        self.turn, self._n_reread = Turn(n_reread=self._n_reread), 0
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
                    self.messages.add("you", n_start + len(self._unread), n_start + n_begin)
                self._open, self._unread = True, []
                self._note(n_start, *said)
            else:
                self._unread = self._unread[self.turn.n_read :]

    def _note(self, n_start: int, text: str, n_before: int, n_text: int) -> None:
        begin = n_start + n_before
        n_read = min(self.n_tokens - begin, n_text)
        if n_read > 0:
            ids = self.llm.input_ids[begin : begin + n_read].tolist()
            self.messages[-1].parts.append([begin, text if n_read == n_text else self.text(ids)])

    # --- the reply ---

    def reply(self):
        """Generate the reply to the turn that ask() ended: yields pieces of text. The caller may stop at any piece."""
        turn, llm = self.turn, self.llm
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        marker = Marker(self.template.stop)
        stop_token = self._marker_token()
        n_start, n_ctx, token = self.n_tokens, self.n_ctx, None
        message, said, max_tokens = self.messages[-1], [], self.settings.max_tokens
        t_start, clock = time.perf_counter(), threads.Clock()
        turn.end = "cut"
        try:
            with self.recall.pinned():
                for token in llm.generate([], reset=False, **self.settings.sampling()):
                    if token == stop_token or self._vocab.is_eog(token):
                        token, turn.end = None, "stop"
                        break
                    turn.n_reply += 1
                    turn.t_reply = time.perf_counter() - t_start
                    said.append(marker.feed(decoder.decode(self.piece(token))))
                    yield said[-1]
                    if marker.found:
                        turn.end, message.has_marker = "stop", True
                        break
                    if max_tokens and turn.n_reply >= max_tokens:
                        turn.end = "length"
                        break
                    if n_ctx is not None and self.n_tokens + 1 >= n_ctx:
                        turn.end = "context"
                        break
            if rest := marker.feed(decoder.decode(b"", final=True)) + marker.flush():
                said.append(rest)
                yield rest
        finally:
            turn.waited = clock.waited()
            message.end = turn.end
            message.parts = [[message.content, "".join(said)]] if said else []
            # generate() reads a token when it is asked for the next one, which may not have happened
            if token is not None and self.n_tokens < n_start + turn.n_reply:
                self._unread = [token]

    def _marker_token(self) -> int | None:
        """The token of the template's `stop`, where it is one token. The model may not list it among those that end a reply."""
        tokens = self._tokens(self.template.stop, special=True)
        return tokens[0] if len(tokens) == 1 else None

    # --- going back ---

    def go_back(self, n: int, progress=None) -> int:
        """Forget what stands at position n or behind it. Returns how many tokens were read again for that, 0 inside the exact tail.

        Behind the tail the first n tokens are read anew, with what is pinned of them. After an exception, as an interrupt, the
        conversation is as it was. The turn that n lies in is open afterwards, unless n is where a message begins that is the user's.
        """
        n_again = 0
        try:
            self.llm.rewind(n)
        except RuntimeError:
            pins = [] if self.stats() is None else [(start, min(stop, n)) for start, stop in self.llm.pins if start < n]
            self._read_anew(self.llm.input_ids[:n].tolist(), pins, progress)
            n_again = n
        self.recall.rewind(n)
        self.messages.rewind(n)
        if n == 0:
            self.clear()
        self._begin_turn(n_again)
        self._open = bool(self.messages) and self.messages[-1].who == "you"
        self._unread = []
        return n_again
