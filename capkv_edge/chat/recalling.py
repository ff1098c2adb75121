"""Recall in a conversation: what comes back with the user's turn, and its way out of the cache after the reply."""

import contextlib

from ..recall import Recall
from ..recall.choice import Recalled
from ..recall.index import NoIndexError
from .messages import start

_N_REPLY = 128  # room for a reply that is made beside what comes back


class TurnRecall:
    """Recall for the turns of one conversation.

    Args:
        llm: the Llama of the conversation. Without a budget nothing comes back.
        quota: tokens that may come back with a turn; 0 is off.
    """

    def __init__(self, llm, quota: int):
        self._llm, self._quota, self._recall = llm, quota, None
        #: why it is off although it was asked for; "" if it is not
        self.remark = ""
        self.begin_anew()

    def begin_anew(self, saved: dict | None = None) -> None:
        """The conversation begins anew, or goes on from what saved() gave. Raises ValueError where it is not that."""
        saved = saved or {"left_out": [], "shown": [], "place": None}
        self.clear()
        self._place = saved["place"] and tuple(saved["place"])
        if self._llm.kv_config is None:
            return
        try:
            self._recall = Recall(self._llm, self._quota, saved["left_out"], None, saved["shown"])
        except NoIndexError as err:
            self.remark = f"recall is off: {err}" if self._quota else ""

    def saved(self) -> dict:
        """What is needed to go on after a restart, as values for JSON."""
        recall = self._recall
        return {"left_out": recall.left_out if recall else [], "shown": recall.shown if recall else [], "place": self._place}

    @property
    def quota(self) -> int:
        """Tokens that may come back with a turn; 0 is off."""
        return self._quota

    @quota.setter
    def quota(self, quota: int) -> None:
        self._quota = quota
        if self._recall is not None:
            self._recall.quota = quota

    def rewind(self, n: int) -> None:
        """The conversation went back to position n."""
        if self._recall is not None:
            self._recall.rewind(n)
        if self._place is not None and self._place[0] >= n:
            self.clear()

    def shift(self, first: int, n: int) -> None:
        """What stands at position `first` or behind it was moved by n positions."""

        def moved(*places):
            return [at + n if at >= first else at for at in places]

        saved = self.saved()
        self.begin_anew(
            {
                "left_out": [moved(*one) for one in saved["left_out"]],
                "shown": [(*moved(begin, end), [moved(*one) for one in ranges]) for begin, end, ranges in saved["shown"]],
                "place": saved["place"] and moved(*saved["place"]),
            }
        )

    @property
    def is_on(self) -> bool:
        return self._recall is not None and self._quota > 0

    def clear(self) -> None:
        """Forget what came back with the last turn."""
        self.found: Recalled | None = None  #: what came back with the last turn
        self._place = None  # (begin, end) of its positions, while it may be taken out of the cache again

    def find(self, text: str, n_tokens: int) -> str:
        """What is to stand behind the user's text; "" where nothing comes back.

        If the turn and a reply do not fit into the free cells, the eviction that they would cause is made before, so that what comes
        back can be taken out again.

        Args:
            n_tokens: of the turn without it.
        """
        self.clear()
        if not self.is_on:
            return ""
        self.found = self._recall.find(text)
        stats = self._llm.kv_stats() if self.found else None
        if stats and stats.n_used + n_tokens + self._recall.quota + _N_REPLY > stats.n_cells:
            self._llm.compress()
            self.found = self._recall.find(text)
        return self.found.text if self.found else ""

    def put(self, begin: int, n_tokens: int) -> None:
        """Say that what find() gave stands from position `begin` on; of an interrupted turn it is less than n_tokens."""
        end = min(begin + n_tokens, self._llm.n_tokens)
        if self.found and end > begin:
            self._recall.put(self.found, begin, end)
            self._place = (begin, end)

    def pinned(self, begin: int | None = None, n_tokens: int = 0):
        """A context within which no head evicts what came back with the turn: n_tokens that are to be read from position `begin` on,
        or, without arguments, what stands in the cache.
        """
        place = self._place if begin is None else (begin, begin + n_tokens)
        return contextlib.nullcontext() if self._recall is None or place is None else self._recall.pinned(*place)

    def take_out(self) -> list:
        """Take what came back with the last turn out of the cache; the tokens behind it, which are to be read again.

        Nothing is done where tokens after it were evicted already: then it stays until it is evicted as any other text is.
        """
        place, self._place, llm = self._place, None, self._llm
        if place is None or self._recall is None or place[0] < llm.kv_stats().pos_tail:
            return []
        begin, end = place
        behind = llm.input_ids[end : llm.n_tokens].tolist()
        llm.n_tokens = begin
        self._recall.rewind(begin)
        return behind

    def search(self, text: str) -> list:
        """[(Hit, whether it is gone from the cache)] for a query by hand."""
        return self._recall.search(text)


def _range(passage) -> str:
    return f"{passage.begin:,} to {passage.end - 1:,}"


def recalled_line(found: Recalled) -> str:
    """What came back, for the line above a reply."""
    n, ranges = len(found.passages), " and ".join(map(_range, found.passages))
    texts = " ".join(f'"{start(passage.text)}"' for passage in found.passages)
    return f"recalled {n} passage{'s' * (n > 1)} (positions {ranges}): {texts}"


def search_lines(recall: TurnRecall, query: str) -> list:
    """The lines of /recall. Raises ValueError where there is nothing to search, with the reason."""
    if not recall.is_on:
        raise ValueError(recall.remark or "recall is off: it needs a budget and --recall above 0")
    if not query:
        raise ValueError("/recall needs words to search for: /recall QUERY")
    found = recall.search(query)
    lines = [
        f"positions {_range(hit.passage)}, {'evicted' if is_gone else 'still held'}: {' '.join(hit.passage.text.split())}"
        for hit, is_gone in found
    ]
    return lines or [f"nothing of what has left the exact tail has these words: {query}"]
