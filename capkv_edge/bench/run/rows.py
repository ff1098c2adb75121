"""The file of rows: one JSON object per line and one line per measurement, so that a run that was interrupted can go on."""

import json
from pathlib import Path

from ..kinds import KINDS


def key_of(row: dict) -> tuple:
    """What tells the measurement of a row from all others: the fields in `key` of its kind."""
    return (row["kind"], *(json.dumps(row.get(name), sort_keys=True) for name in KINDS[row["kind"]].key))


class Store:
    """Rows in a file, or in memory alone where path is None.

    Raises:
        ValueError: a line of the file is not a row of a known kind; names the line.
    """

    def __init__(self, path=None):
        self.path = None if path is None else Path(path)
        self._rows, self._keys = [], set()
        if self.path is not None and self.path.exists():
            self._load()

    def _load(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        lines = text.split("\n")
        for i, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError):
                if i + 1 == len(lines):  # no line end: the run was killed while it wrote this line
                    self.path.write_text(text[: len(text) - len(line)], encoding="utf-8")
                    break
                raise ValueError(f"{self.path}, line {i + 1}: not a row of capkv-bench") from None

    def _take(self, row: dict) -> None:
        self._keys.add(key_of(row))
        self._rows.append(row)

    def done(self, row: dict) -> bool:
        """Whether a row of the same measurement is there; `row` needs only the fields of its key."""
        return key_of(row) in self._keys

    def add(self, row: dict) -> None:
        """Append a row; it is in the file when this returns."""
        line = json.dumps(row, allow_nan=False)
        self._take(json.loads(line))
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def rows(self, kind: str | None = None) -> list:
        """All rows, or those of a kind, in the order of the file."""
        return [row for row in self._rows if kind in (None, row["kind"])]
