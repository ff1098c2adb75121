"""A model's chat template: messages to text, and the text that it puts around a message."""

from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, Jinja2ChatFormatter

# contents of messages, found again in the rendered text
_FIRST, _REPLY, _LAST = "capkvFirstQuestion", "capkvFirstReply", "capkvLastQuestion"


def message(role: str, content: str) -> dict:
    """One message as chat templates take it."""
    return {"role": role, "content": content}


def fold_system(messages: list) -> list:
    """The same messages for a template that takes no system prompt: it stands in front of the first user's text."""
    system, first, *rest = messages
    return [message("user", f"{system['content']}\n\n{first['content']}"), *rest]


def around_last(render, messages=()) -> tuple:
    """What a template puts around a user's message at the end of a conversation.

    Args:
        render: a function from messages to text, as ChatTemplate.render().
        messages: those before the user's message.

    Returns:
        (before, after): all text before the content, and the text from there to where the reply begins.

    Raises:
        ValueError: the template leaves the content out; else as `render`.
    """
    before, found, after = render([*messages, message("user", _LAST)]).rpartition(_LAST)
    if not found:
        raise ValueError("the model's chat template leaves out the user's text")
    return before, after


class ChatTemplate:
    """The template in a model's metadata, or ChatML where it has none (`is_guess`).

    Args:
        metadata: of the model, {key: text}.
        vocab: a vocab.Vocab, or whatever has its `bos`, `eos` and `text()`.
    """

    def __init__(self, metadata: dict, vocab):
        template = metadata.get("tokenizer.chat_template")
        self.is_guess = not template
        texts = dict(bos_token=vocab.text(vocab.bos), eos_token=vocab.text(vocab.eos))
        self._formatters = [
            Jinja2ChatFormatter(template or CHATML_CHAT_TEMPLATE, add_generation_prompt=begins, **texts) for begins in (False, True)
        ]

    def render(self, messages: list, begins_reply: bool = True, **variables) -> str:
        """The text of a conversation.

        Args:
            messages: dicts of role and content.
            begins_reply: end the text with what begins a reply.
            variables: further variables of the template.

        Raises:
            ValueError: the template fails, or refuses the messages.
        """
        try:
            return self._formatters[begins_reply](messages=messages, **variables).prompt
        except Exception as err:  # a template may raise anything
            hint = " (it may not take a system prompt)" if messages and messages[0]["role"] == "system" else ""
            raise ValueError(f"the model's chat template failed{hint}: {err}") from None


class Turns:
    """A template cut at the user's texts, so that a conversation is only ever appended to.

    Args:
        template: a ChatTemplate.
        system: system prompt; None leaves it to the template. "" is none: where the template has one of its own, an empty one
            takes its place.

    Raises:
        ValueError: the template fails, or takes no system prompt where one is given.
    """

    def __init__(self, template: ChatTemplate, system: str | None = None):
        #: text that ends a reply where the model may have no token for it; "" for none
        self.stop = "<|im_end|>" if template.is_guess else ""
        #: what was done about a missing template or system prompt, one line each
        self.remarks = ["the model has no chat template, ChatML is a guess"] if template.is_guess else []
        #: whether the conversation begins with a system prompt, one of the template's own counts
        self.has_system = bool(system) or (system is None and _has_own_system(template))
        head = [] if system is None else [message("system", system)]
        if system == "" and not _has_own_system(template):
            head = []
        elif system == "":
            self.remarks.append("the system prompt is an empty one, in place of the template's own")

        #: (before, after) the user's text of the first turn; `after` ends where the reply begins
        self.first = around_last(template.render, head)
        before, after = around_last(template.render, [*head, message("user", _FIRST), message("assistant", _REPLY)])
        #: (before, after) the user's text of every later turn; `before` begins where the reply ended
        self.later = (before.rpartition(_REPLY)[2], after)


def _has_own_system(template: ChatTemplate) -> bool:
    """Whether an empty system prompt makes the text shorter, which it does by replacing one of the template's own."""
    try:
        return len(around_last(template.render, [message("system", "")])[0]) < len(around_last(template.render)[0])
    except ValueError:  # the template takes no system prompt
        return False
