"""The file of results: one JSON object per line, one line per unit of work, so that a run can be left and taken up again."""

import json
from pathlib import Path

#: the fields that say which unit a row is of; a unit whose fields are all in the file is not measured again
KEY_FIELDS = {
    "fidelity": ("model_hash", "corpus", "doc", "doc_hash", "n_ctx", "score_from", "stride", "setup", "n_batch"),
    "retrieval": (
        *("model_hash", "task", "haystack", "length", "mode", "share", "depths", "n_turns", "wording"),
        *("seed", "text", "setup", "n_batch"),
    ),
    "longbench": ("model_hash", "dataset", "item", "prompts", "mode", "n_ctx", "setup", "n_batch"),
    "speed": ("model_hash", "setup", "test", "n_threads", "n_gpu_layers", "n_batch", "n_ubatch", "round"),
}


def key_of(row: dict) -> tuple:
    """What identifies the unit of a row."""
    names = KEY_FIELDS[row["kind"]]
    return (row["kind"], *(json.dumps(row.get(name), sort_keys=True) for name in names))


class Store:
    """Rows in a file, or in memory alone where path is None.

    Raises:
        ValueError: a file that holds something else than rows; names the line.
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
                if i + 1 == len(lines):  # the last line has no end: the run was cut while it was written
                    self.path.write_text(text[: len(text) - len(line)], encoding="utf-8")
                    break
                raise ValueError(f"{self.path}, line {i + 1}: not a row of capkv-bench") from None

    def _take(self, row: dict) -> None:
        self._keys.add(key_of(row))
        self._rows.append(row)

    def done(self, key: dict) -> bool:
        """Whether a row with the key fields of `key` (a row, or the start of one) is there."""
        return key_of(key) in self._keys

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
