"""Commands that take back what was said, or say it again: /regen, /edit, /undo, /system."""

from .messages import start

COMMANDS = {
    "/regen": "make the last reply again",
    "/edit TEXT": "ask this in place of your last question; without TEXT, change that one",
    "/undo": "take back your last turn and its reply",
    "/system TEXT": 'give the conversation this system prompt, "" for none; without TEXT, show it',
}

_NO_SEED = 0xFFFFFFFF  # with this seed llama.cpp takes another one each time


def _go_back(chat, n: int) -> None:
    """Take the conversation back to position n, and say so where that takes reading anew."""
    stats = chat.talk.stats()
    if stats is not None and 0 < n < stats.pos_tail:
        chat.ui.info(
            f"the cache holds every token from position {stats.pos_tail:,} on only, and this goes back to {n:,}: "
            f"the {n:,} tokens before it are read again"
        )
    with chat.ui.progress("reading again") as update:
        chat.talk.go_back(n, update)


def _last_question(talk):
    """The user's message that the last reply is to, and the position where its question begins."""
    if not talk.messages or talk.messages[-1].who != "the model" or not (asked := talk.messages.last("you")) or not asked.parts:
        raise ValueError("there is no question that was answered yet")
    return asked, asked.header if len(asked.parts) == 1 else asked.parts[-1][0]


def regen(chat) -> None:
    """/regen. Raises ValueError where there is no reply."""
    talk = chat.talk
    asked, _ = _last_question(talk)
    _go_back(chat, talk.messages[-1].header)
    if talk.llm._sampling_seed != _NO_SEED:
        talk.llm.set_seed((talk.llm._sampling_seed + 1) % _NO_SEED)  # or the reply would be the same
    if talk.settings.temp == 0:
        chat.ui.info("temp is 0, so the reply will most likely be the same; /set temp 0.8 lets it differ")
    with chat.ui.progress("reading") as update:
        talk.ask_again(update)
    chat.reply(asked.parts[-1][1])


def edit(chat, text: str) -> None:
    """/edit. Raises ValueError where there is no question, or no text and no terminal to change it in."""
    asked, begin = _last_question(chat.talk)
    text = text or chat.ui.edit(asked.parts[-1][1])
    if not text:
        return chat.ui.info("nothing was changed")
    _go_back(chat, begin)
    chat.say(text)


def undo(chat) -> None:
    """/undo. Raises ValueError where there is nothing to take back."""
    asked = chat.talk.messages.last("you")
    if asked is None:
        raise ValueError("nothing to take back: nothing was said yet")
    _go_back(chat, asked.header)
    chat.ui.info("took back: " + " and ".join(f'"{start(text)}"' for _, text in asked.parts))


def system(chat, text: str) -> None:
    """/system. Raises ValueError where the template takes no system prompt."""
    talk = chat.talk
    if not text:
        own = "is the template's own" if talk.template.has_system else "is none"
        return chat.ui.info(f"the system prompt {own if talk.system is None else 'is: ' + talk.system if talk.system else 'is none'}")
    if talk.messages:
        chat.ui.info("the system prompt stands before everything: the conversation is read again behind the new one")
    with chat.ui.progress("reading again") as update:
        n = talk.set_system("" if text == '""' else text, update)
    chat.ui.info(f"the system prompt is another one now; {n:,} tokens were read again" if n else "the system prompt is another one now")
    if talk.pins.note:
        chat.ui.info(f"note: {talk.pins.note}")


def command(chat, name: str, rest: str) -> list:
    """Carry out one of COMMANDS; returns no lines, since it shows what it does while it does it.

    Raises:
        ValueError, ContextFullError: it cannot be done; the message has the reason.
    """
    if name in ("/edit", "/system"):
        {"/edit": edit, "/system": system}[name](chat, rest)
    else:
        {"/regen": regen, "/undo": undo}[name](chat)
    return []
