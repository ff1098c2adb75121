"""The invariants of a sequence in a cache with a budget.

A Sequence is told of each operation before it is done, and predicts the result. It predicts everything exactly except which
entries an eviction keeps of the middle: of those it only knows that they were held before.
"""

import copy
import math
from dataclasses import asdict, dataclass

import numpy as np


class Broken(AssertionError):
    """An invariant does not hold."""


class Checker:
    """Counts what was checked and raises Broken at the first thing that is wrong."""

    def __init__(self):
        self.n_checks = 0

    def that(self, ok, what, *seen):
        """ok: one truth value, or one for each head."""
        self.n_checks += np.size(ok)
        if not np.all(ok):
            shown = ", ".join(str(value) for value in seen)
            raise Broken(what + (f" (seen: {shown})" if shown else ""))


@dataclass
class Seen:
    """What the context says of one sequence."""

    positions: list  # one array for each head
    rope_positions: list
    stats: object  # KvStats
    pos_min: int
    pos_max: int
    pins: list  # (start, stop) of each range

    @classmethod
    def of(cls, context, seq):
        return cls(context.positions(seq), context.rope_positions(seq), context.stats(seq), *context.ends(seq), context.pins(seq))


def positions_of(ranges) -> set:
    return {pos for start, stop in ranges for pos in range(start, stop)}


SAME_BYTES = ("bytes_kv", "bytes_obs", "bytes_full")


class Sequence:
    """What one sequence has to hold. `ids` are its tokens by position, in an array that never grows."""

    def __init__(self, config, n_heads, n_cells, n_ctx, n_pos_max):
        self.config, self.n_cells, self.n_pos_max = config, n_cells, n_pos_max
        self.ids = np.full(n_ctx, -1, np.int32)  # written once, so that resident memory does not grow later
        self.empty = np.zeros((n_heads, 0), np.int32)
        self.stats = None  # the figures that were seen last
        self.work = 0  # bytes of work memory that were seen first
        self.clear()

    def clear(self):
        self.end, self.held, self.ropes = 0, self.empty, self.empty
        self.offset, self.n_reindexes, self.reindexed = 0, 0, False
        self.n_sink = self.n_mid = self.n_evicted = self.n_evictions = 0
        self.pos_tail, self.evicted = 0, False
        self.pins = frozenset()  # positions
        self.scattered = False  # whether cells may be in another order than their positions
        self.capacity = ()  # over all layers, then of each layer; () = all 1, None = unknown until the next look
        self.target, self.n_new, self.renumbers = None, 0, False  # of the operation that comes next

    # --- what is going to happen ---

    @property
    def n_used(self):
        return self.held.shape[1]

    def _n_recent(self, target):
        n_tail = self.n_tail if self.evicted else self.n_used
        return min(self.config.recent, target - min(self.config.sink, target), n_tail)

    @property
    def n_tail(self):
        return self.n_used - self.n_sink - self.n_mid

    @property
    def n_removed(self):
        """Positions that were taken out of the tail. Its keys stay as far apart as they were, so these count for the trained length."""
        return self.held[0, -1] - self.held[0, -self.n_tail] + 1 - self.n_tail if self.n_tail > 0 else 0

    def _offset_after(self, target):
        """The offset if all that an eviction down to `target` leaves were numbered anew."""
        if target >= self.n_used:
            n_front, first = (self.n_sink + self.n_mid) if self.evicted else 0, self.n_used - self.n_tail
        else:
            n_recent = self._n_recent(target)
            n_front, first = target - n_recent, self.n_used - n_recent
        return (self.held[0, first] if first < self.n_used else self.held[0, -1] + 1) - n_front

    @property
    def n_positions_left(self):
        """How many tokens come before an eviction for the sake of the trained length."""
        return self.n_cells if self.config.reindex == "never" else self.n_pos_max + self.offset - self.end

    def has_room(self, n_budget, pins):
        """Whether pins, sinks and recent window leave a quarter of a budget to choose from."""
        n = sum(pos >= self.config.sink for pos in pins)
        return n == 0 or 4 * (n_budget - self.config.sink - self.config.recent - n) >= n_budget

    def append(self, ids):
        if self.n_used + len(ids) > self.n_cells:
            self.target = self.config.budget
        passes = self.config.reindex != "never" and len(ids) > self.n_positions_left
        if passes and self.n_used > 0 and self._offset_after(min(self.config.budget, self.n_used)) > self.offset:
            self.target, self.renumbers = min(self.config.budget, self.n_used), True
        self.ids[self.end : self.end + len(ids)] = ids
        self.n_new = len(ids)

    def compress(self, n_target):
        if self.n_used > n_target:
            self.target = n_target

    def cut(self, p0, p1):
        """Of the exact tail, [p0, p1) goes."""
        stays = (self.held[0] < p0) | (self.held[0] >= p1)
        stays[: self.n_sink + self.n_mid] = True
        self.held, self.ropes = self.held[:, stays], self.ropes[:, stays]
        self.pins -= set(range(p0, min(p1, self.end)))
        if self.n_used == 0:
            self.offset, self.reindexed = 0, False
        if p1 < self.end:
            self.scattered = True
        elif self.evicted and self.n_tail == 0:
            self.end = self.pos_tail
        else:
            self.end = int(self.held[0, -1]) + 1  # less than p0 if what was before it had been removed

    def copy(self):
        """For copy_from(), as long as no token before the end is replaced."""
        return copy.copy(self)

    def copy_from(self, other):
        """Become what another sequence is."""
        ids, mine = other.ids, self.ids
        self.__dict__.update(copy.copy(other).__dict__)
        self.ids = mine
        if mine is not ids:
            mine[: self.end] = ids[: self.end]

    # --- what has happened ---

    def check(self, that, seen: Seen):
        """Compare with what is there, and take over what only the cache could know."""
        n = seen.stats.n_used
        lengths = [len(row) for row in seen.positions]
        that([k == n for k in lengths], "every head holds as many tokens as cells are in use", n, lengths)
        now = np.stack(seen.positions)
        new = np.arange(self.end, self.end + self.n_new)
        last = now[:, max(n - self.n_new, 0) :]
        that(last.shape[1] == len(new) and (last == new).all(axis=1), "every head holds all new tokens", new[:1], last[:, -1:])
        kept = now[:, : n - self.n_new]
        if self.target is None:
            same = kept.shape == self.held.shape and (kept == self.held).all(axis=1)
            that(same, "nothing is lost or found without an eviction", self.held.shape, kept.shape)
        else:
            self._check_eviction(that, kept)
        before, self.held, self.end = self.held, now, self.end + self.n_new
        self._check_order(that)
        self._check_rope_positions(that, before, np.stack(seen.rope_positions))
        self._check_pins(that, seen)
        self.target, self.n_new, self.renumbers = None, 0, False
        self._check_stats(that, seen)
        self.stats = seen.stats

    def _check_eviction(self, that, kept):
        target, before = self.target, self.held
        that(kept.shape[1] == target, "after an eviction as many are left as were asked for", target, kept.shape[1])
        if target == self.n_used:
            that((kept == before).all(axis=1), "nothing is lost when entries are only numbered anew")
            self.scattered = False
            if self.evicted and self.n_tail > 0:
                self.pos_tail = int(before[0, -self.n_tail])  # later than it was if the first tokens of the tail had been removed
            return
        n_recent = self._n_recent(target)
        self.n_sink = min(self.config.sink, target)
        sinks = kept[:, : self.n_sink]
        that((sinks == before[:, : self.n_sink]).all(axis=1), "an eviction keeps the sinks", sinks.tolist())
        tail = before[0, self.n_used - n_recent :]
        last = kept[:, target - n_recent :]
        that((last == tail).all(axis=1), "an eviction keeps the last tokens", tail[:1], last[:, :1])
        alive = [np.isin(row, old, assume_unique=True).all() for row, old in zip(kept, before)]
        that(alive, "whatever is kept was there before", [np.setdiff1d(row, old)[:4] for row, old in zip(kept, before)])
        self.n_mid = target - self.n_sink - n_recent
        self.n_evicted += self.n_used - target
        self.n_evictions += 1
        self.pos_tail = int(tail[0]) if n_recent else self.end
        self.evicted, self.scattered, self.capacity = True, False, None

    def _check_rope_positions(self, that, before, ropes):
        now, n_kept = self.held, self.n_used - self.n_new
        evicts = self.target is not None and n_kept < before.shape[1]
        if self.renumbers or (evicts and self.config.reindex == "always"):
            front = self.n_sink + self.n_mid
            first = now[0, front] if front < now.shape[1] else self.end
            self.offset, self.reindexed, self.n_reindexes = int(first) - front, True, self.n_reindexes + 1
            want = np.where(np.arange(n_kept) < front, np.arange(n_kept), now[:, :n_kept] - self.offset)
            that((ropes[:, :n_kept] == want).all(axis=1), "entries that are numbered anew begin at 0, without a gap", ropes[:, :8].tolist())
        else:
            was = [rope[np.searchsorted(old, row)] for old, rope, row in zip(before, self.ropes, now[:, :n_kept])]
            that([np.array_equal(*pair) for pair in zip(ropes[:, :n_kept], was)], "an entry's key stays as it is rotated")
        that((ropes[:, n_kept:] == now[:, n_kept:] - self.offset).all(axis=1), "new keys are rotated by position minus offset", self.offset)
        that((np.diff(ropes, axis=1) > 0).all(axis=1), "RoPE positions are ascending")
        if self.config.reindex != "never" and self.n_pos_max >= self.n_cells:
            past = ropes.max(initial=0) - self.n_pos_max
            that(past < self.n_removed, "no key is rotated past the trained length", ropes.max(initial=0), self.n_removed)
        self.ropes = ropes

    def _check_order(self, that):
        that((np.diff(self.held, axis=1) > 0).all(axis=1), "positions are ascending")
        exact = self.held[:, self.n_sink + self.n_mid :] if self.evicted else self.held
        that((exact == exact[0]).all(axis=1), "the tail is the same in the same cells of every head")
        sinks = self.held[:, : min(self.config.sink, self.n_used)]
        that((sinks == np.arange(sinks.shape[1])).all(axis=1), "the sinks are the first tokens", sinks.tolist())

    def _check_pins(self, that, seen):
        that(positions_of(seen.pins) == self.pins, "the pins are those that were set", seen.pins)
        read = np.array(sorted(pos for pos in self.pins if pos < self.end), np.int32)
        found = [np.isin(read, row, assume_unique=True) for row in self.held]
        that([part.all() for part in found], "every head holds what is pinned", [read[~part][:4] for part in found])

    def _check_stats(self, that, seen):
        now, was = seen.stats, self.stats
        finite = [math.isfinite(v) for v in asdict(now).values() if isinstance(v, (int, float))]
        that(all(finite) and min(now.bytes_kv, now.bytes_full, now.n_cells) > 0, "the figures are finite", now)
        ok = now.n_cells == self.n_cells and now.n_used == self.n_used <= now.n_cells
        that(ok, "no more cells are used than there are", now)
        that(now.n_tokens == now.n_used + now.n_evicted, "tokens are those held and those evicted", now)
        that(now.n_evicted == self.n_evicted, "evicted tokens are counted", self.n_evicted, now)
        that(now.n_evictions == self.n_evictions, "evictions are counted", self.n_evictions, now)
        that(now.n_reindexes == self.n_reindexes, "new RoPE positions are counted", self.n_reindexes, now)
        that(now.pos_offset == self.offset, "the offset is that of the tail", self.offset, now)
        that(now.pos_tail == self.pos_tail, "the tail begins where it should", self.pos_tail, now)
        first = -1 if self.n_used == 0 else self.pos_tail
        that(seen.pos_min == first, "the first position is that of the exact tail", first, seen.pos_min)
        that(seen.pos_max == (self.end if self.n_used else 0) - 1, "the last position is the true one", self.end, seen.pos_max)
        shares = (now.capacity, *now.capacity_layers)
        if self.capacity is None:
            self.capacity = shares
        that([0 < share <= 1 for share in shares], "capacity is above 0 and at most 1", shares)
        that(shares == (self.capacity or (1.0,) * len(shares)), "capacity changes with evictions alone", self.capacity, shares)
        n_tables = 2 if self.reindexed else 1
        # two bytes for an entry, and 16 where the upper half of the positions changes, at least once where there are any
        n_bytes = 2 * self.n_mid * len(self.held) * n_tables
        more = now.bytes_pos - n_bytes
        right = more % 16 == 0 and (0 < more <= n_bytes + 16 * len(self.held) * n_tables if self.n_mid else more == 0)
        that(right, "the position table is as large as the middle", self.n_mid, now)
        if was is not None:
            for name in SAME_BYTES:
                that(getattr(now, name) == getattr(was, name), f"{name} is constant", getattr(was, name), now)
        # ggml's allocator may need more for fewer entries; before its first batch a context has no work memory
        self.work = self.work or now.bytes_work
        ok = now.bytes_work == 0 or self.work / 1.5 <= now.bytes_work <= self.work * 1.5
        that(ok, "bytes_work is about constant", self.work, now)
