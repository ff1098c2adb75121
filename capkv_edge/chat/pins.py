"""What of a conversation is pinned: the system prompt by itself, messages on demand, each with the template's text around it."""

from .messages import Messages

COMMANDS = {
    "/pin N": "never evict the last N messages, the model's count too; 1 if N is left out",
    "/pins": "show what is pinned",
    "/unpin": "pin nothing but the system prompt",
}

N_SHOWN = 12  # tokens of a message that are shown


class Pins:
    """The pins of one conversation.

    A message is pinned from the template's text before it up to the text of the message that follows.

    Args:
        llm: a capkv_edge.Llama, with or without a budget.
        messages: what was said, a messages.Messages that the conversation adds to.
    """

    def __init__(self, llm, messages: Messages):
        self._llm, self._said = llm, messages
        self.n_system = 0  #: tokens of the system prompt that are pinned
        self.note = ""  #: why the system prompt is not pinned; empty if it is, or if there is none

    def begin_anew(self, n_system: int) -> None:
        """Pin the system prompt of a conversation of which nothing was read yet.

        Args:
            n_system: its length in tokens, with the template's text around it; 0 is none.
        """
        self.n_system, self.note = 0, ""
        if self._llm.kv_config is None or not n_system:
            return
        try:
            self._llm.pin(0, n_system)
            self.n_system = n_system
        except ValueError as err:
            self.note = f"the system prompt is not pinned and may be evicted: {err}"

    def go_on(self, n_system: int) -> None:
        """A conversation was restored, and its pins with it. n_system as in begin_anew()."""
        is_pinned = self._llm.kv_config is not None and any(start == 0 and n_system <= stop for start, stop in self._llm.pins)
        self.n_system, self.note = (n_system if is_pinned else 0), ""

    @property
    def ranges(self) -> list:
        """(start, stop) of each range of pinned positions, ascending; none without a budget."""
        return [] if self._llm.kv_config is None else self._llm.pins

    def pin(self, n: int, said: list, end: int) -> list:
        """Pin the last n messages, or all if there are fewer; returns a line for each.

        Args:
            said: the tokens of the conversation.
            end: position after the last message and the template's text behind it; it need not be read yet, nor its last tokens.

        Raises:
            ValueError: there is nothing to pin, some of it is evicted, or it is too much for the budget; nothing has changed.
        """
        if self._llm.kv_config is None:
            raise ValueError("there is no budget: nothing is evicted")
        some = self._said[-n:]
        if not some:
            raise ValueError("nothing to pin: nothing was said yet")
        self._llm.pin(some[0].header, end)
        return ["pinned:", *self._lines(some, said), self._left()]

    def show(self, said: list, end: int) -> list:
        """What is pinned, one line each. said, end: as for pin()."""
        if self._llm.kv_config is None:
            return ["there is no budget: nothing is evicted"]
        pins = self._llm.pins
        ends = [message.content for message in self._said[1:]] + [end]
        pinned = [
            message
            for message, stop in zip(self._said, ends)
            if any(first <= message.header and stop <= last for first, last in pins)
        ]
        system = [_line("the system prompt", 0, self.n_system)] if self.n_system else []
        return [*system, *self._lines(pinned, said), self._left()] if pins else ["nothing is pinned"]

    def unpin(self) -> list:
        """Pin nothing but the system prompt; returns a line that says so."""
        if self._llm.kv_config is None:
            return ["there is no budget: nothing is evicted"]
        self._llm.unpin(self.n_system)
        return [self._left()]

    def _lines(self, messages: list, said: list) -> list:
        headers = [message.header for message in self._said[1:]] + [len(said)]
        lines = []
        for message, stop in zip(self._said, headers):
            if message in messages:
                ids = said[message.content : min(stop, message.content + N_SHOWN)]
                text = " ".join(self._llm.detokenize(ids).decode("utf-8", "ignore").split())
                more = "..." if stop - message.content > N_SHOWN else ""
                lines.append(f'{_line(message.who, message.content, stop)}: "{text}{more}"')
        return lines

    def _left(self) -> str:
        config, pins = self._llm.kv_config, self._llm.pins
        n = sum(stop - start for start, stop in pins)
        n_pinned = sum(stop - max(start, config.sink) for start, stop in pins if stop > config.sink)
        n_left = config.budget - config.recent - config.sink - n_pinned
        return f"{n:,} tokens are pinned, which leaves {n_left:,} of the budget of {config.budget:,} to choose from"


def _line(what: str, start: int, stop: int) -> str:
    return f"  {what}, positions {start:,} to {stop - 1:,}"


def command(chat, name: str, rest: str) -> list:
    """Carry out one of COMMANDS; returns the lines to show.

    Raises:
        ValueError: it cannot be done; the message has the reason.
    """
    talk = chat.talk
    if name == "/pins":
        return talk.pins.show(*talk.said())
    if name == "/unpin":
        return talk.pins.unpin()
    if rest and not (rest.isdecimal() and int(rest) > 0):
        raise ValueError(f"/pin {rest}: allowed is a number of messages, 1 or more")
    return talk.pins.pin(int(rest or 1), *talk.said())
