"""Recall for a Llama with a budget: what its cache has evicted is found again in the text that was read."""

import contextlib

from ..kv import KvCache
from ..vocab import Vocab
from .archive import Archive
from .choice import QUOTA, Choice, Gate, Recalled
from .held import Held
from .query import Weigher


class Recall:
    """Finds again what a Llama's cache has evicted.

    It reads the Llama's token ids by itself, whenever it is asked: after a rollback or load_session() too. In memory alone; what it
    holds is made anew from the token ids, in seconds for a million of them.

    Args:
        llm: a capkv_edge.Llama. Without a budget nothing is evicted, so nothing comes back.
        quota: tokens that may come back for one turn, marks included.
        left_out: [(begin, end)] of positions that are not to be found: of a session, what `left_out` was when it was saved.
        gate: what a passage must hold of a query to come back.
        shown: of a session, what `shown` was when it was saved.

    Raises:
        NoIndexError: SQLite has no FTS5 here.
        ValueError: quota is below 0.
    """

    def __init__(self, llm, quota: int = QUOTA, left_out=(), gate: Gate | None = None, shown=()):
        if quota < 0:
            raise ValueError(f"quota = {quota}: allowed is 0 or more")
        self.llm, self.quota = llm, quota
        self.archive = Archive(Vocab(llm.model).piece)
        for begin, end in left_out:
            self.archive.leave_out(begin, end)
        self._choice = Choice(self.archive, Weigher(self._tokenize, llm.n_vocab()), lambda text: len(self._tokenize(text)), gate)
        self._shown = [(begin, end, [tuple(one) for one in ranges]) for begin, end, ranges in shown]

    @property
    def left_out(self) -> list:
        """[(begin, end)] of positions that are a part of the text and not of the conversation: what was recalled itself."""
        return list(self.archive.gaps)

    @property
    def shown(self) -> list:
        """[(begin, end, [(begin, end)])] of what was recalled: where it stands in the text, and where its passages stood."""
        return list(self._shown)

    def _tokenize(self, text: str) -> list:
        return self.llm.tokenize(text.encode("utf-8", "replace"), add_bos=False, special=False)

    # --- following the text ---

    def follow(self) -> None:
        """Index what has left the exact tail since the last call. All other methods do it first."""
        llm = self.llm
        tokens = llm.input_ids[: llm.n_tokens]
        n_same = self.archive.n_shared(tokens)
        if n_same < self.archive.n_tokens:
            self.rewind(n_same)
        if llm.kv_config:
            self._leave_out_pins()
        self.archive.extend(tokens[n_same:].tolist(), llm.kv_stats().pos_tail if llm.kv_config else 0)

    def _leave_out_pins(self) -> None:
        """What is pinned before it is indexed, as a system prompt, never leaves the cache, so it need not be found."""
        last = max(self.archive.n_tokens, self.archive.gaps[-1][1] if self.archive.gaps else 0)
        for begin, end in self.llm.pins:
            if begin >= last and end <= self.llm.n_tokens:
                self.archive.leave_out(begin, end)
                last = end

    def rewind(self, n: int) -> None:
        """Forget what was read from position n on. follow() finds out where tokens differ; this is for those that are read again."""
        self.archive.rewind(n)
        self._shown = [one for one in self._shown if one[0] < n]

    def _held(self) -> Held:
        return Held(KvCache(self.llm.ctx, self.llm.kv_config) if self.llm.kv_config else None)

    # --- what comes back ---

    def find(self, text: str) -> Recalled | None:
        """What comes back for a user's turn with this text, within the quota; None where nothing does.

        Passages come back that pass the gate, and of which no copy from an earlier turn is still held; but nothing where most heads hold
        all of them.
        """
        if not self.quota:
            return None
        self.follow()
        held = self._held()
        shown = [one for begin, end, ranges in self._shown if not held.is_gone(begin, end) for one in ranges]

        def is_gone(passage) -> bool:
            return held.is_gone(passage.begin, passage.end)

        def is_new(passage) -> bool:
            return all(passage.end <= first or last <= passage.begin for first, last in shown)

        return self._choice.find(text, self.quota, is_gone, is_new)

    def put(self, recalled: Recalled, begin: int, end: int) -> None:
        """Say that what find() gave stands at positions `begin` to `end`, before these are read: it is not a part of the conversation,
        and does not come back twice.

        Raises:
            ValueError: these positions were read before.
        """
        self.archive.leave_out(begin, end)
        self._shown.append((begin, end, [(passage.begin, passage.end) for passage in recalled.passages]))

    @contextlib.contextmanager
    def pinned(self, begin: int, end: int):
        """Within this context every head keeps positions `begin` to `end`, where a passage stands or is to be read, so that a long reply
        does not evict what it answers from. Where the budget has no room for that, they are evicted as any other text is.
        """
        llm = self.llm
        with contextlib.ExitStack() as afterwards:
            if llm.kv_config and begin < end:
                others = [(max(first, begin), min(last, end)) for first, last in llm.pins if first < end and begin < last]
                with contextlib.suppress(ValueError):
                    llm.pin(begin, end)
                    for first, last in others:  # unpin() takes these too, and is called before
                        afterwards.callback(llm.pin, first, last)
                    afterwards.callback(llm.unpin, begin, end)
            yield

    def search(self, text: str, n_max: int = 5) -> list:
        """[(Hit, whether it is gone from the cache)] for a query by hand, the best first, whether or not it passes the gate."""
        self.follow()
        held = self._held()
        return [(hit, held.is_gone(hit.passage.begin, hit.passage.end)) for hit in self._choice.search(text, n_max)]
