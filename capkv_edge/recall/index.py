"""An index of passages in SQLite's FTS5, in memory: by words, and by their parts of three letters. It holds no text."""

import sqlite3
import weakref

#: per table: the name of FTS5's tokenizer, and the oldest SQLite that has it
_TABLES = {"words": ("porter unicode61 remove_diacritics 2", (3, 27)), "parts": ("trigram", (3, 34))}


class NoIndexError(Exception):
    """SQLite has no FTS5 here."""


def quoted(text: str) -> str:
    """A string of FTS5's query language: these words, or letters, one after another."""
    return '"' + text.replace('"', '""').replace("\0", " ") + '"'  # SQLite ends a query at a zero byte


class Index:
    """Passages by number, 1, 2, ...; what is added is searched in `words`, which has English stems and no accents, and in `parts`.

    Raises:
        NoIndexError: SQLite has no FTS5.
    """

    def __init__(self):
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self.n = 0  #: passages
        self.tables = [name for name, (_, version) in _TABLES.items() if sqlite3.sqlite_version_info >= version]
        try:
            for name in self.tables:
                self._db.execute(f"CREATE VIRTUAL TABLE {name} USING fts5(text, content='', tokenize='{_TABLES[name][0]}')")
        except sqlite3.OperationalError as err:
            raise NoIndexError(f"SQLite {sqlite3.sqlite_version} has no full text search (FTS5) here: {err}") from None

    def add(self, texts: list) -> None:
        """Add passages behind those that are there."""
        rows = list(enumerate(texts, self.n + 1))
        with self._transaction():
            for name in self.tables:
                self._db.executemany(f"INSERT INTO {name}(rowid, text) VALUES (?, ?)", rows)
        self.n += len(texts)

    def remove(self, texts: list) -> None:
        """Remove the last passages; `texts` are theirs."""
        rows = list(enumerate(texts, self.n - len(texts) + 1))
        with self._transaction():
            for name in self.tables:
                self._db.executemany(f"INSERT INTO {name}({name}, rowid, text) VALUES ('delete', ?, ?)", rows)
        self.n -= len(texts)

    def _transaction(self):
        self._db.execute("BEGIN")
        return self._db  # as a context manager it commits, or rolls back after an exception

    def holding(self, table: str, text: str, n_max: int) -> list:
        """Numbers of the passages that hold the text, ascending, n_max at most."""
        query = f"SELECT rowid FROM {table} WHERE {table} MATCH ? LIMIT ?"
        return [number for (number,) in self._db.execute(query, (quoted(text), n_max))]

    @property
    def n_bytes(self) -> int:
        """Memory of the index."""
        return self._db.execute("PRAGMA page_count").fetchone()[0] * self._db.execute("PRAGMA page_size").fetchone()[0]
