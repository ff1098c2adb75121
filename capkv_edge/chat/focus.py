"""The question that a conversation is read for: its queries take part in what is evicted."""

COMMANDS = {"/focus WORDS": "let a question take part in what is evicted from now on; without WORDS, show it; /focus off ends it"}


class Focus:
    """The known question of one conversation.

    Args:
        llm: a capkv_edge.Llama, with or without a budget.
    """

    def __init__(self, llm):
        self._llm = llm
        self.text = ""  #: "" for none

    def set(self, text: str, tokens: list) -> int:
        """Let a question take part, in place of the one before; returns how many of its queries are held.

        Args:
            tokens: of the text, with the template's text around it.

        Raises:
            ValueError: the policy keeps no sample of queries, or there is no room for the tokens; nothing has changed.
        """
        n = self._llm.focus(tokens)
        self.text = text
        return n

    def drop(self) -> None:
        """Hold no question."""
        self.text = ""
        if self._llm.kv_config is not None:
            self._llm.focus(None)

    def go_on(self, text: str) -> None:
        """A conversation was restored, and its question with it."""
        self.text = text if self._llm.kv_config is not None and self._llm.n_focus else ""

    def lines(self) -> list:
        """What is held, for the user."""
        if not self.text:
            return ["no question takes part in what is evicted"]
        return [f'{self._llm.n_focus} tokens of a question take part in what is evicted: "{self.text}"']


def begin(chat, prompt: str) -> None:
    """Let a prompt that is known take part before the files are read. Where that cannot be, say why."""
    try:
        n = chat.talk.look_for(prompt)
        chat.ui.info(f"{n} tokens of the question take part in what is evicted of the file (--no-focus)")
    except ValueError as err:
        chat.ui.info(f"note: the question does not take part in what is evicted of the file: {err}")


def command(chat, name: str, rest: str) -> list:
    """Carry out one of COMMANDS; returns the lines to show. Raises ValueError where it cannot be done."""
    talk = chat.talk
    if talk.stats() is None:
        raise ValueError("there is no budget: nothing is evicted")
    if rest == "off":
        talk.focus.drop()
    elif rest:
        talk.look_for(rest)
    return talk.focus.lines()
