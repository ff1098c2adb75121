"""Recall in a measurement: what a stream has read is indexed, and passages of it come back with a question."""

import time

from ...recall.archive import Archive
from ...recall.choice import Choice
from ...recall.query import Weigher


class Recalling:
    """What has been read by a stream, as text.

    Args:
        count: a function from text to its number of tokens.
    """

    def __init__(self, stream, count):
        engine = stream.engine
        self._is_kept = not stream.setup.on  # nothing is evicted, so any passage may come back
        self._held = None if self._is_kept else stream.held()
        self._archive = Archive(engine.piece)
        self._choice = Choice(self._archive, Weigher(engine.tokenize, engine.n_vocab), count)

    def add(self, tokens: list, n_gone: int) -> None:
        """Index tokens that were read, those before position n_gone."""
        self._archive.extend(tokens, n_gone)

    @property
    def n_bytes(self) -> int:
        """Memory of token ids and index."""
        return self._archive.n_bytes

    def find(self, question: str, quota: int) -> tuple:
        """(text that comes back with a question, {recalled: [[begin, end]], t_recall: seconds})."""
        start = time.perf_counter()
        found = self._choice.find(question, quota, lambda one: self._is_kept or self._held.is_gone(one.begin, one.end))
        taken = time.perf_counter() - start
        ranges = [[one.begin, one.end] for one in found.passages] if found else []
        return found.text if found else "", dict(recalled=ranges, t_recall=round(taken, 6))
