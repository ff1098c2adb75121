"""Conversations that are kept: saved as they go, with a name each, and restored without reading anew."""

import hashlib
import os
import time

import numpy as np

from .messages import start
from .store import Store

COMMANDS = {
    "/save NAME": "keep this conversation under a name; without NAME, save it now",
    "/load NAME": "go on with a conversation that was kept",
    "/list": "show the conversations that are kept, the last one first",
    "/delete NAME": "delete a conversation that was kept",
}

#: once a session took longer to save than this, in seconds, only the text is saved after each turn, and the session at the end
SLOW = 1.0
_N_SHOWN = 72  # characters of a message that are shown


class Keeper:
    """Keeps one conversation after the other.

    Args:
        talk: a Conversation.
        store: where they are kept, a store.Store.
        is_automatic: save after each change; else only where save() is called.
        name: of the conversation, where it has one from the start.
    """

    def __init__(self, talk, store: Store, is_automatic: bool = True, name: str | None = None):
        self._talk, self.store, self.is_automatic = talk, store, is_automatic
        self.name = name and store.check_name(name)  #: None while it has none
        self._is_given = name is not None  # the user has chosen the name
        self._is_slow = self._is_stale = False  # saving a session takes long; the session on disk is older than the text
        self._saved = None  # when this chat has loaded or saved the conversation last, as Entry.saved

    def begin_anew(self) -> None:
        """Another conversation begins, without a name."""
        self.name, self._is_given, self._is_slow, self._is_stale, self._saved = None, False, False, False, None

    def changed(self) -> list:
        """Something was said, taken back or pinned: save it, where that is done without being asked; returns the lines to show.
        Raises OSError."""
        return self._save(with_session=not self._is_slow) if self.is_automatic else []

    def finish(self) -> list:
        """Save what changed() has left for the end; returns the lines to show. Raises OSError."""
        return self._save() if self._is_stale else []

    def save(self, name: str = "") -> list:
        """Save the conversation now, and go on under this name; returns the lines to show.

        A name that it was given by itself is replaced; where it had another one, that conversation stays as it was saved last.

        Raises:
            ValueError: nothing was said, or the name is not allowed, or taken.
            OSError: it cannot be written.
        """
        if not self._talk.messages:
            raise ValueError("nothing to save: nothing was said yet")
        before = self.name
        if name and name != before:
            if self.store.has(self.store.check_name(name)):
                raise ValueError(f"{name} is there already; /delete {name} removes it")
            if before is not None and not self._is_given and self.store.has(before):
                self.store.rename(before, name)
            self.name, self._is_given = name, True
        return [*self._save(), f"saved as {self.name}, in {self.store.folder}"]

    def _save(self, with_session: bool = True) -> list:
        talk, lines = self._talk, []
        if not talk.messages:
            return lines
        if self.name is None:
            first = talk.messages[0].parts
            self.name = self.store.free_name(first[-1][1] if first else "")
        elif self._is_changed():
            before, self.name = self.name, self.store.free_name(self.name)
            lines = [f"note: another program has saved {before} since, and it stays so; this conversation is kept as {self.name} now"]
            with_session = True
        record = {"model": os.path.basename(talk.llm.model_path), "digest": _digest(talk.llm), **talk.state()}
        began = time.perf_counter()
        self._saved = self.store.save(self.name, record, talk.llm.save_session if with_session else None)
        if with_session:
            self._is_slow = time.perf_counter() - began > SLOW
        self._is_stale = not with_session
        return lines

    def _is_changed(self) -> bool:
        """Whether another program has saved a conversation under this name since it was loaded or saved here."""
        try:
            return self.store.has(self.name) and self.store.read(self.name).saved != self._saved
        except ValueError:
            return False  # damaged: saving it anew loses nothing

    def load(self, name: str, progress=None) -> list:
        """Go on with a conversation that was kept; returns the lines to show. The one before is saved first, where that is automatic.

        Where its session cannot be used, as with another model or policy, its text is read again.

        Raises:
            ValueError: there is none of this name, it is damaged, or its text cannot be read.
            ContextFullError: its text does not fit.
            OSError: the conversation before cannot be saved.
        """
        entry = self.store.read(name)
        lines = self.finish()
        reason = self._restore(entry)
        n = self._talk.n_tokens
        self.begin_anew()
        if reason:
            n = self._talk.read_text(entry.record, progress)
        self.name, self._is_given, self._saved = name, True, entry.saved
        shown = f"its text was read again, {n:,} tokens: {reason}" if reason else f"{n:,} tokens, none was read again"
        return [*lines, f"this is {name}: {shown}", *last_lines(self._talk)]

    def _restore(self, entry) -> str:
        """Load the session; returns why it cannot be used, "" if it was loaded."""
        try:
            session = self.store.session(entry)
            if session is None or not session.exists():
                return "there is no session of it"
            self._talk.llm.load_session(session)
            if _digest(self._talk.llm) != entry.record.get("digest"):
                return "its session is older than its text"
            self._talk.restore(entry.record)
        except OSError as err:
            return f"its session cannot be read ({err.strerror})"
        except ValueError as err:
            return str(err).rpartition(f"{session}: ")[2]
        return ""

    def delete(self, name: str) -> list:
        """Delete a conversation that was kept; returns the lines to show. Raises ValueError or OSError where that cannot be."""
        if name == self.name:
            raise ValueError(f"{name} is this conversation; /clear begins another one")
        self.store.delete(name)
        return [f"deleted {name}"]

    def list(self) -> list:
        """The conversations that are kept, a line each."""
        entries, lines = [], []
        for name in self.store.names():
            try:
                entries.append(self.store.read(name))
            except ValueError as err:
                lines.append(f"  {name}: {err}")
        width = max([len(entry.name) for entry in entries], default=0)
        for entry in entries:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.saved))
            mark = "*" if entry.name == self.name else " "
            record = entry.record
            lines.append(f"{mark} {entry.name:<{width}}  {when}  {record.get('n_tokens', 0):>8,} tokens  {record.get('model', '')}")
        return lines or [f"no conversation is kept in {self.store.folder}"]


def _digest(llm) -> str:
    """Of the ids of all tokens that were read."""
    return hashlib.blake2b(np.ascontiguousarray(llm.input_ids[: llm.n_tokens], dtype="<i4"), digest_size=16).hexdigest()


def last_lines(talk) -> list:
    """The last turn of a conversation, a line for each side."""
    return [f"  {message.who}: {start(message.parts[-1][1], _N_SHOWN)}" for message in talk.messages[-2:] if message.parts]


def command(chat, name: str, rest: str) -> list:
    """Carry out one of COMMANDS; returns the lines to show.

    Raises:
        ValueError, OSError, ContextFullError: it cannot be done; the message has the reason.
    """
    keeper = chat.keeper
    if keeper is None:
        raise ValueError(f"{name}: conversations are not kept here")
    if name == "/list":
        return keeper.list()
    if name == "/save":
        return keeper.save(rest)
    if not rest:
        raise ValueError(f"{name} needs a name; /list has those that are kept")
    if name == "/delete":
        return keeper.delete(rest)
    with chat.ui.progress(f"reading {rest}") as update:
        return keeper.load(rest, update)
