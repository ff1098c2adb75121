"""What a conversation holds beside its cache, to save it and to go on from it; and reading it anew from its start."""

import contextlib

from .messages import Messages

# positions that are left free for a reply
N_RESERVE = 16


class ContextFullError(Exception):
    """There are too few positions left for a text; nothing of it was read. The message has the numbers."""


def _system(state: dict) -> str | None:
    system = state["system"]
    if system is not None and not isinstance(system, str):
        raise ValueError(f"its system prompt is {system!r}")
    return system


def _focus(state: dict) -> str:
    text = state.get("focus", "")
    if not isinstance(text, str):
        raise ValueError(f"its question is {text!r}")
    return text


class Restoring:
    """Mixed into Conversation; needs its `llm`, `messages`, `pins`, `recall`, `focus`, `template`, `system`, and its open turn."""

    def state(self) -> dict:
        """All that a session of the Llama does not hold, as values for JSON: restore() takes it."""
        return {
            "system": self.system,
            "n_tokens": self.n_tokens,
            "open": self._open,
            "unread": [int(token) for token in self._unread],
            "messages": self.messages.saved(),
            "recall": self.recall.saved(),
            "focus": self.focus.text,
        }

    def restore(self, state: dict) -> None:
        """Go on with a conversation whose session the Llama has loaded. state: what state() gave when it was saved.

        Raises:
            ValueError: it is damaged, or of another text than the session; the conversation is empty then.
        """
        before = self.system
        try:
            if state["n_tokens"] != self.n_tokens:
                raise ValueError(f"its text has {state['n_tokens']:,} tokens, its session {self.n_tokens:,}")
            unread, is_open = [int(token) for token in state["unread"]], bool(state["open"])
            messages = Messages.restored(state["messages"], self.n_tokens + len(unread))
            self._set_template(_system(state))
            self.recall.begin_anew(state["recall"])
            focus = _focus(state)
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            self._set_template(before)
            self.clear()
            self.focus.drop()
            raise ValueError(str(err)) from None
        self.messages[:] = messages
        self.pins.go_on(self._n_system)
        self.focus.go_on(focus)
        self._begin_turn()
        self._unread, self._open = unread, is_open

    def read_text(self, state: dict, progress=None) -> int:
        """Begin anew with the messages of a state, whatever model or options they were said to, and read them.

        Returns how many tokens. After an interrupt, those that were read so far stay.

        Raises:
            ContextFullError: they do not fit; those that were read so far stay.
            ValueError: the state is damaged, or the template takes no system prompt; the conversation is empty then.
        """
        before = self.system
        try:
            messages, focus = Messages.restored(state["messages"], 2**31), _focus(state)
            self._set_template(_system(state))
        except (KeyError, TypeError, ValueError) as err:
            self._set_template(before)
            self.clear()
            raise ValueError(str(err)) from None
        self.clear()
        self.focus.drop()
        if focus and self.stats() is not None:
            with contextlib.suppress(ValueError):  # another policy may keep no sample of queries
                self.look_for(focus)
        n_all = sum(len(self._tokens(message.text)) for message in messages)

        def update(done, total):
            if progress is not None:
                progress(min(self.n_tokens, n_all), n_all)

        for message in messages:
            if message.who == "you":
                for _, text in message.parts:
                    self.read(text, update)
                continue
            before, after, reply = self._begin(), self._tokens(self._parts[1], special=True), self._tokens(message.text)
            header = self.n_tokens + len(before)
            self._feed(before + after + reply, update, N_RESERVE)
            self._end_turn(header, len(after))
            self.messages[-1].parts, self.messages[-1].end = [[header + len(after), message.text]], message.end
        self._begin_turn(self.n_tokens)
        return self.n_tokens

    def set_system(self, system: str, progress=None) -> int:
        """Give the conversation another system prompt, "" for none. It stands first, so all is read anew: returns how many tokens.

        After an exception, as an interrupt, the conversation is as it was.

        Raises:
            ValueError: the template takes no system prompt.
            ContextFullError: the conversation does not fit any more.
        """
        before, n_before = self.system, self._n_first
        try:
            self._set_template(system)
            if not self.messages or self.n_tokens <= n_before:
                self.clear()
                return 0
            first = self._head + self._tokens(self.template.first[0], special=True)
            n_more = len(first) - n_before
            tokens = first + self.llm.input_ids[n_before : self.n_tokens].tolist()
            if self.n_ctx is not None and len(tokens) + N_RESERVE > self.n_ctx:
                raise ContextFullError(f"the conversation would take {len(tokens):,} tokens, and there are {self.n_ctx:,} positions")
            self._read_anew(tokens, self._pins_behind(n_before, n_more), progress)
        except BaseException:
            self._set_template(before)
            raise
        self.messages.shift(n_before, n_more)
        self.recall.shift(n_before, n_more)
        self.pins.go_on(self._n_system)
        self._begin_turn(len(tokens))
        return len(tokens)

    def _pins_behind(self, n_before: int, n_more: int) -> list:
        """The pins once the system prompt has another length: it is pinned, and what was pinned behind it."""
        if self.stats() is None:
            return []
        behind = [(max(start, n_before) + n_more, stop + n_more) for start, stop in self.llm.pins if stop > n_before]
        return [(0, self._n_system)] * bool(self._n_system) + behind

    def _read_anew(self, tokens: list, pins: list, progress=None) -> None:
        """Read these tokens in place of all that was read. After an exception everything is as it was."""
        state = self.llm.save_state()
        try:
            self.llm.reset()
            for start, stop in pins:
                self.llm.pin(start, stop)
            for i in range(0, len(tokens), self.llm.n_batch):
                self.llm.eval(tokens[i : i + self.llm.n_batch])
                if progress is not None:
                    progress(self.n_tokens, len(tokens))
        except BaseException:
            self.llm.load_state(state)
            raise
