"""A model's chat template, cut into what stands before and after a user's text: a conversation is only ever appended to."""

from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, Jinja2ChatFormatter

# stand-ins for texts, found again in what the template renders
_USER, _REPLY, _NEXT = "capkvFirstQuestion", "capkvFirstReply", "capkvNextQuestion"


class Template:
    """The template in a model's metadata, or ChatML where it has none (`is_guess`).

    Raises:
        ValueError: a template that does not render, or that takes no system prompt where one is given.
    """

    def __init__(self, metadata: dict, bos: str, eos: str, system: str | None = None):
        template = metadata.get("tokenizer.chat_template")
        self.is_guess = template is None
        self._formatter = Jinja2ChatFormatter(template or CHATML_CHAT_TEMPLATE, eos_token=eos, bos_token=bos)
        head = [{"role": "system", "content": system}] if system else []
        first = [{"role": "user", "content": _USER}]
        then = [{"role": "assistant", "content": _REPLY}, {"role": "user", "content": _NEXT}]

        #: (before, after) the user's text of the first turn; `after` ends where the reply begins
        self.first = self._cut(head + first, _USER)
        before, after = self._cut(head + first + then, _NEXT)
        #: (before, after) the user's text of every later turn; `before` begins where the reply ended
        self.later = (before.rpartition(_REPLY)[2], after)

    def _cut(self, messages: list, mark: str) -> tuple:
        try:
            text = self._formatter(messages=messages).prompt
        except Exception as err:  # whatever a template may do wrong, or refuse by raise_exception()
            hint = " (it may not take a system prompt)" if messages[0]["role"] == "system" else ""
            raise ValueError(f"the model's chat template failed{hint}: {err}") from None
        before, found, after = text.rpartition(mark)
        if not found:
            raise ValueError("the model's chat template leaves out the user's text")
        return before, after
