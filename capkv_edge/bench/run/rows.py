"""The file of rows: one JSON object per line and one line per measurement, so that a run that was interrupted can go on."""

import json
from pathlib import Path

from ..kinds import KINDS
from .provenance import ORIGIN
from .setups import SEEDED


def _values(row: dict, names) -> tuple:
    return tuple(json.dumps(row.get(name), sort_keys=True) for name in names)


def key_of(row: dict) -> tuple:
    """What tells the measurement of a row from all others: the fields in `key` of its kind."""
    if "kv_seed" not in row and row.get("policy") in SEEDED:  # rows that were written before the field: the default drew the sample
        row = {**row, "kv_seed": int((row.get("options") or {}).get("seed", 1))}
    return (row["kind"], *_values(row, KINDS[row["kind"]].key))


class Store:
    """Rows in a file, or in memory alone where path is None.

    Args:
        keeps_old: count a measurement as done that was made with another build or on another machine.

    Raises:
        ValueError: a line of the file is not a row of a known kind; names the line.
    """

    def __init__(self, path=None, keeps_old: bool = False):
        self.path, self.keeps_old = None if path is None else Path(path), keeps_old
        self._newest = {}  # key of a measurement -> its newest row, in the order of the file
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
        _put(self._newest, row)

    def done(self, row: dict) -> bool:
        """Whether the newest row of the same measurement was made with the same libraries, devices and threads.

        row: needs only the fields of its key and those in provenance.ORIGIN."""
        found = self._newest.get(key_of(row))
        return found is not None and (self.keeps_old or _values(found, ORIGIN) == _values(row, ORIGIN))

    def add(self, row: dict) -> None:
        """Append a row; it is in the file when this returns."""
        line = json.dumps(row, allow_nan=False)
        self._take(json.loads(line))
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def rows(self, kind: str | None = None) -> list:
        """The newest row of each measurement, of all kinds or one, in the order of the file."""
        return [row for row in self._newest.values() if kind in (None, row["kind"])]


def newest(rows: list) -> list:
    """Of rows of the same measurement the last one: what was measured with a former build counts until it is measured anew."""
    found = {}
    for row in rows:
        _put(found, row)
    return list(found.values())


def _put(found: dict, row: dict) -> None:
    """Put a row behind all others, in place of one of the same measurement."""
    key = key_of(row)
    found.pop(key, None)
    found[key] = row
