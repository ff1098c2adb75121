"""Any order of operations on the sequences of one context, against a model of what they may hold."""

import llama_cpp
import numpy as np
import pytest
import tiny_models
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sequences import Context, same

N_SEQ, BUDGET, SINK, RECENT, CELLS = 3, 64, 4, 16, 256
seqs = st.integers(0, N_SEQ - 1)


class Held:
    """What one sequence may hold: positions [0, end) less those that were removed or evicted."""

    def __init__(self):
        self.end = 0  # position of the next token
        self.n = 0  # entries
        self.tail = 0  # first position of the exact tail
        self.holes = set()  # removed from before any eviction, or from the tail
        self.pins = set()  # positions
        self.gone = set()  # of these, holes when they were pinned

    def copy(self):
        new = Held()
        new.__dict__.update(self.__dict__, holes=set(self.holes), pins=set(self.pins), gone=set(self.gone))
        return new

    def unpin(self, positions):
        self.pins -= set(positions)
        self.gone = {pos for pos in self.gone & self.pins if pos < self.end}

    def exact(self) -> list:
        """Positions that every head holds."""
        return [pos for pos in range(self.tail, self.end) if pos not in self.holes]


class Sequences(RuleBasedStateMachine):
    path = None

    @initialize(policy=st.sampled_from(["capkv", "capkv-ref", "streaming"]), lengths=st.permutations([30, 200, 300]))
    def start(self, policy, lengths):
        self.c = Context(self.path, n_seq=N_SEQ, policy=policy)
        self.held = [Held() for _ in range(N_SEQ)]
        self.pending = set()  # copies whose data come with the next batch or compress()
        self.bytes = [self.c.save(s) for s in range(N_SEQ)]
        for s, n in enumerate(lengths):
            self.read({s}, n, s)

    def teardown(self):
        if hasattr(self, "c"):
            self.c.close()

    def note(self, *touched):
        """These sequences may have changed; all others have not."""
        for s in range(N_SEQ):
            now = self.c.save(s)
            assert s in touched or s in self.pending or now == self.bytes[s], f"sequence {s} changed"
            self.bytes[s] = now

    def evicted(self, s):
        """Book an eviction if there was one."""
        stats, h = self.c.stats(s), self.held[s]
        h.n = stats.n_used
        if stats.pos_tail > h.tail:
            h.tail = stats.pos_tail
            h.holes = {pos for pos in h.holes if pos >= h.tail or pos < SINK}

    @rule(picked=st.sets(seqs, min_size=1), n=st.integers(1, 250), seed=st.integers(0, 3))
    def read(self, picked, n, seed):
        before = {s: (self.c.stats(s).n_evictions, self.held[s].n) for s in picked}
        for x in self.c.read(n, *sorted(picked), seed=seed):
            assert np.isfinite(x).all()
        for s in picked:
            h, stats = self.held[s], self.c.stats(s)
            h.end += n
            if stats.n_evictions == before[s][0]:
                assert stats.n_used == h.n + n
            else:
                assert h.n + n > CELLS - self.c.n_batch, "evicted although there was room"
            self.evicted(s)
        self.note(*picked)
        self.pending = set()

    @rule(s=seqs, budget=st.sampled_from([0, 21, 40, 100]))
    def compress(self, s, budget):
        target = budget or BUDGET
        if not self.has_room(s, self.held[s].pins, target):
            with pytest.raises(ValueError, match="pinned tokens"):
                self.c.compress(s, budget)
            return self.note()
        dropped, h = self.c.compress(s, budget), self.held[s]
        assert dropped == max(0, h.n - target)
        n = h.n
        self.evicted(s)
        assert h.n == n - dropped
        self.note(s)
        if dropped:
            self.pending = set()

    def has_room(self, s, pins, n_budget=BUDGET) -> bool:
        row = self.c.held(s)[0]
        end = max(self.c.pos_max(s) + 1, SINK)
        n = sum(pos in pins for pos in row[SINK:].tolist()) + sum(pos >= end for pos in pins)
        return n == 0 or 4 * (n_budget - SINK - RECENT - n) >= n_budget

    @rule(s=seqs, back=st.integers(-50, 300), n=st.integers(1, 20))
    def pin(self, s, back, n):
        h = self.held[s]
        p0 = max(h.end - back, 0)
        new = set(range(p0, p0 + n))
        held = [set(row.tolist()) for row in self.c.held(s)]
        lost = {pos for pos in new - h.pins if pos < min(h.tail, self.c.pos_max(s) + 1) and not all(pos in row for row in held)}
        if lost or not self.has_room(s, h.pins | new):
            with pytest.raises(ValueError, match="have dropped" if lost else "pinned tokens"):
                self.c.kv.pin(p0, p0 + n, s)
            return self.note()
        self.c.kv.pin(p0, p0 + n, s)
        h.gone |= (new - h.pins) & h.holes
        h.pins |= new
        self.note(s)

    @rule(s=seqs, p0=st.one_of(st.none(), st.integers(0, 600)), n=st.one_of(st.none(), st.integers(0, 300)))
    def unpin(self, s, p0, n):
        p1 = None if n is None else (p0 or 0) + n
        self.c.kv.unpin(p0, p1, s)
        self.held[s].unpin(range(p0 or 0, 10_000 if p1 is None else p1))
        self.note(s)

    @rule(source=seqs, to=seqs)
    def copy(self, source, to):
        self.c.cp(source, to)
        if source != to:
            self.held[to] = self.held[source].copy()
            assert same(self.c.held(to), self.c.held(source))
            self.pending.add(to)
        self.note(to)

    @rule(source=seqs, to=seqs, p0=st.integers(-1, 150), n=st.integers(0, 300))
    def copy_part(self, source, to, p0, n):
        p1 = max(p0, 0) + n
        before = self.c.held(to)
        h = self.held[source]
        self.c.cp(source, to, p0, p1)
        possible = n > 0 and (h.tail == 0 or (p0 <= 0 and p1 >= h.tail))
        if source == to or not possible:
            assert same(self.c.held(to), before)
        else:
            new = h.copy()
            for pos in [pos for pos in new.exact() if not max(p0, 0) <= pos < p1]:
                new.holes.add(pos)
                new.n -= 1
            end = self.c.pos_max(source) + 1
            new.pins -= {pos for pos in new.pins if pos < end and not max(p0, 0) <= pos < p1}
            self.held[to] = self.ended(new)
            self.pending.add(to)
        self.note(to)

    def ended(self, h):
        """As h goes on: with the position after the last one that is there."""
        exact = h.exact()
        if h.n == 0:
            left, h = h.pins, Held()
            h.pins = left
            return h
        h.end = exact[-1] + 1 if exact else h.tail
        h.holes = {pos for pos in h.holes if pos < h.end}
        h.unpin([])
        return h

    @rule(s=st.integers(-1, N_SEQ - 1), back=st.integers(0, 40), n=st.one_of(st.none(), st.integers(1, 20)))
    def remove(self, s, back, n):
        some = range(N_SEQ) if s == -1 else [s]
        p0 = max(max(self.held[i].end for i in some) - back, 0)
        p1 = -1 if n is None else p0 + n
        ranges = {i: [pos for pos in range(p0, self.held[i].end) if p1 < 0 or pos < p1] for i in some}
        whole = {i: p0 == 0 and (p1 < 0 or p1 >= self.held[i].end > 0) for i in some}
        last = {i: self.c.pos_max(i) for i in some}
        allowed = all(not r or whole[i] or r[0] >= self.held[i].tail for i, r in ranges.items())
        assert self.c.rm(s, p0, p1) == allowed
        if allowed:
            for i, r in ranges.items():
                h = self.held[i]
                if whole[i]:
                    self.held[i] = Held()
                    continue
                gone = {pos for pos in r if pos not in h.holes}
                h.holes |= gone
                h.n -= len(gone)
                h.pins -= set(range(p0, last[i] + 1 if p1 < 0 else min(p1, last[i] + 1)))
                self.held[i] = self.ended(h)
        self.note(*(some if allowed else []))

    @rule(s=seqs, how=st.sampled_from(["drop", "keep", "clear", "clear the data"]), n=st.integers(0, 250))
    def empty(self, s, how, n):
        """Some sequences go, and s is read anew."""
        gone = {"drop": [s], "keep": [i for i in range(N_SEQ) if i != s]}.get(how, range(N_SEQ))
        if how == "drop":
            assert self.c.rm(s, -1, -1)
        elif how == "keep":
            llama_cpp.llama_memory_seq_keep(self.c.memory, s)
        else:
            llama_cpp.llama_memory_clear(self.c.memory, how == "clear the data")
        for i in gone:
            self.held[i] = Held()
        self.note(*gone)
        if n:
            self.read({s}, n, 4)

    @rule(s=seqs, by=st.integers(-5, 5))
    def shift(self, s, by):
        llama_cpp.llama_memory_seq_add(self.c.memory, s, 0, -1, by)
        llama_cpp.llama_memory_seq_div(self.c.memory, s, 0, -1, 2)
        self.note()

    @rule(source=seqs, to=seqs)
    def move_state(self, source, to):
        data = self.bytes[source]
        buf = (llama_cpp.ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        assert llama_cpp.llama_state_seq_set_data(self.c.ctx, buf, len(data), to) == len(data)
        assert same(self.c.held(to), self.c.held(source))
        self.held[to] = self.held[source].copy()
        self.note(to)

    @invariant()
    def what_is_held_may_be_held(self):
        for s, h in enumerate(getattr(self, "held", [])):
            stats = self.c.stats(s)
            assert stats.n_used == h.n <= CELLS == stats.n_cells
            assert stats.pos_tail == h.tail
            exact = h.exact()
            last = -1 if h.n == 0 else exact[-1] if exact else h.tail - 1
            assert self.c.pos_max(s) == last
            assert self.c.pos_min(s) == (-1 if h.n == 0 else h.tail if h.tail else exact[0])
            assert {pos for start, stop in self.c.kv.pins(s) for pos in range(start, stop)} == h.pins
            must = [pos for pos in h.pins - h.gone if pos <= last]
            for pos in self.c.held(s):
                assert np.isin(must, pos).all()
                assert len(pos) == h.n and (np.diff(pos) > 0).all()
                assert pos[len(pos) - len(exact) :].tolist() == exact
                if h.tail and not any(hole < SINK for hole in h.holes):
                    assert pos[:SINK].tolist() == list(range(SINK))


def test_any_order_of_operations(tmp_path):
    Sequences.path = tmp_path / "tiny.gguf"
    tiny_models.write_llama(Sequences.path, n_embd=64, n_layer=1, n_head=2, n_head_kv=1)
    machine = Sequences.TestCase
    machine.settings = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    machine().runTest()
