"""A model's chat template, cut into what stands before and after a user's text: a conversation is only ever appended to."""

from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, Jinja2ChatFormatter

# stand-ins for texts, found again in what the template renders
_USER, _REPLY, _NEXT = "capkvFirstQuestion", "capkvFirstReply", "capkvNextQuestion"


class Template:
    """The template in a model's metadata, or ChatML where it has none (`is_guess`).

    system: "" is no system prompt: a template with one of its own gets an empty one in its place.

    Raises:
        ValueError: a template that does not render, or that takes no system prompt where one is given.
    """

    def __init__(self, metadata: dict, bos: str, eos: str, system: str | None = None):
        template = metadata.get("tokenizer.chat_template")
        self.is_guess = template is None
        self._formatter = Jinja2ChatFormatter(template or CHATML_CHAT_TEMPLATE, eos_token=eos, bos_token=bos)
        #: text that ends a reply, where the model may not know it as a token that does; "" for none
        self.stop = "<|im_end|>" if self.is_guess else ""
        first = [{"role": "user", "content": _USER}]
        then = [{"role": "assistant", "content": _REPLY}, {"role": "user", "content": _NEXT}]

        #: what was done about a missing template or system prompt, one line each
        self.remarks = ["the model has no chat template, ChatML is a guess"] if self.is_guess else []
        head = [] if system is None else [{"role": "system", "content": system}]
        if system == "" and not self._has_own_system(head + first, first):
            head = []
        elif system == "":
            self.remarks.append("the system prompt is an empty one, in place of the template's own")

        #: (before, after) the user's text of the first turn; `after` ends where the reply begins
        self.first = self._cut(head + first, _USER)
        before, after = self._cut(head + first + then, _NEXT)
        #: (before, after) the user's text of every later turn; `before` begins where the reply ended
        self.later = (before.rpartition(_REPLY)[2], after)

    def _has_own_system(self, empty: list, none: list) -> bool:
        """Whether an empty system prompt makes the text shorter: it replaces one of the template's own."""
        try:
            return len(self._cut(empty, _USER)[0]) < len(self._cut(none, _USER)[0])
        except ValueError:  # it takes no system prompt
            return False

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
