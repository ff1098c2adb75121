"""The folder in which conversations are kept: for each a text file, NAME.json, and a session that this file names.

The text file is written last, and both appear whole or not at all: whatever ends a save, the folder has the conversation as it was
before or after. Only the owner may read them.
"""

import contextlib
import json
import os
import re
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .. import atomic

FORMAT = 1
_NAME = re.compile(r"\w[\w .-]{0,79}")
_STALE = 3600  # seconds after which a session that no text file names is one that a killed save has left


def default_folder() -> Path:
    """Where this system keeps data of programs for a user."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "capkv" / "chats"


@dataclass(frozen=True)
class Entry:
    """A conversation in the folder."""

    name: str
    saved: float  #: when, in seconds since 1970
    record: dict  #: what save() was given, and "session"


class Store:
    """Conversations in a folder.

    Args:
        folder: it is made, for its owner alone, when the first conversation is saved.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def check_name(self, name: str) -> str:
        """The name. Raises ValueError where a conversation cannot be called so."""
        if not _NAME.fullmatch(name) or name.endswith((".", " ")):
            raise ValueError(f"{name!r}: allowed are letters, digits, blanks and _ - . after a letter or digit, 80 at most")
        return name

    def free_name(self, text: str) -> str:
        """A name that no conversation has, made of the first words of a text."""
        stem = "-".join(re.findall(r"\w+", text.lower())[:6])[:40].strip("-_") or "chat"
        names, n = {name.lower() for name in self.names()}, 1
        while (name := stem if n == 1 else f"{stem}-{n}") in names:
            n += 1
        return name

    def names(self) -> list:
        """The names of all conversations, the last saved first."""
        times = {}
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                times[path.stem] = path.stat().st_mtime
        return sorted(times, key=lambda name: (-times[name], name))

    def has(self, name: str) -> bool:
        return self._text(name).exists()

    def read(self, name: str) -> Entry:
        """Raises ValueError where there is none of this name, or its file is damaged or of another version."""
        path = self._text(self.check_name(name))
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"the version of its format is {record['format']}, here it is {FORMAT}")
            return Entry(name, float(record["saved"]), record)
        except FileNotFoundError:
            raise ValueError(f"no conversation is called {name}; /list has those that are kept") from None
        except OSError as err:
            raise ValueError(f"{path}: {err.strerror}") from None
        except (KeyError, TypeError, ValueError) as err:
            raise ValueError(f"{path} is damaged: {err}") from None

    def session(self, entry: Entry) -> Path | None:
        """The session of a conversation; None where it has none. Raises ValueError where the name leads out of the folder."""
        name = entry.record.get("session")
        if name is not None and (not isinstance(name, str) or Path(name).name != name):
            raise ValueError(f"{self._text(entry.name)} is damaged: its session is {name!r}")
        return name and self.folder / name

    def save(self, name: str, record: dict, write_session=None) -> float:
        """Save a conversation; one of the same name is replaced. Returns when, as Entry.saved.

        Args:
            record: values for JSON.
            write_session: a function that writes the session to a path; None leaves the session as it was saved last.

        Raises:
            OSError: it cannot be written; the conversation is in the folder as it was before.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = None
        with contextlib.suppress(ValueError):
            before = self.session(self.read(name))
        session = before
        if write_session is not None:
            session = self.folder / f"{secrets.token_hex(8)}.session"
            write_session(session)
        record = {"format": FORMAT, "saved": time.time(), "session": session and session.name, **record}
        try:
            atomic.write(str(self._text(name).absolute()), [json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")])
        except BaseException:
            if session is not None and session != before:
                session.unlink(missing_ok=True)
            raise
        if before is not None and session != before:
            before.unlink(missing_ok=True)
        return record["saved"]

    def rename(self, name: str, new: str) -> None:
        """Raises OSError where it cannot be."""
        os.rename(self._text(name), self._text(new))

    def delete(self, name: str) -> None:
        """Raises ValueError where there is none of this name, OSError where it cannot be deleted."""
        if not self.has(self.check_name(name)):
            raise ValueError(f"no conversation is called {name}; /list has those that are kept")
        session = None
        with contextlib.suppress(ValueError):
            session = self.session(self.read(name))
        self._text(name).unlink()
        if session is not None:
            session.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the sessions that killed saves have left."""
        named = set()
        for name in self.names():
            with contextlib.suppress(ValueError):
                named.add(self.session(self.read(name)))
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*.session"):
                if path not in named and path.stat().st_mtime < time.time() - _STALE:
                    path.unlink()

    def _text(self, name: str) -> Path:
        return self.folder / f"{name}.json"
