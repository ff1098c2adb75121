"""The operations of a soak that pin tokens: of the tail, ahead of the text, in the middle, and what has to be refused."""

import numpy as np


class Pins:
    """Mixed into Soak."""

    def refused(self, call, words):
        """A call that has to raise, and to change nothing."""
        try:
            call()
            self.that(False, "what has no room or is lost is refused", words)
        except ValueError as err:
            self.that(words in str(err) and "allowed" in str(err), "what is refused says what is allowed", err)
        self.check()

    def _in_all_heads(self, seq):
        """Positions that every head holds: int [n], ascending."""
        return seq.held[0][np.logical_and.reduce([np.isin(seq.held[0], row, assume_unique=True) for row in seq.held])]

    def _range(self, seq):
        """A range of which every head holds what was read."""
        stop = start = seq.end + int(self.rng.integers(0, 300))
        there = self._in_all_heads(seq)
        if len(there) and self.rng.random() < 0.7:
            start = stop = int(self.rng.choice(there))
            there = set(there.tolist())
            while stop in there and stop < start + 24 and self.rng.random() < 0.95:
                stop += 1
            if stop < seq.end:
                return start, max(stop, start + 1)
        return start, stop + int(self.rng.integers(1, 24))

    def pin(self, s):
        seq = self.seqs[s]
        start, stop = self._range(seq)
        pins = seq.pins | set(range(start, stop))
        if not seq.has_room(seq.config.budget, pins):
            self.refused(lambda: self.context.pin(s, start, stop), "pinned tokens")
            return self.unpin(s)
        self.context.pin(s, start, stop)
        seq.pins = pins
        self.check()
        self.read(s)

    def pin_too_much(self, s):
        seq = self.seqs[s]
        start = seq.end + int(self.rng.integers(0, 2 * seq.config.budget))
        self.refused(lambda: self.context.pin(s, start, start + seq.config.budget), "pinned tokens")

    def pin_what_is_lost(self, s):
        seq = self.seqs[s]
        there = set(self._in_all_heads(seq).tolist()) | seq.pins
        lost = [pos for pos in range(max(seq.pos_tail - 200, 0), min(seq.pos_tail, seq.end)) if pos not in there]
        if not lost:
            return self.read(s)
        pos = int(self.rng.choice(lost))
        start = max(pos - int(self.rng.integers(0, 3)), 0)
        self.refused(lambda: self.context.pin(s, start, pos + 1), "have dropped")

    def unpin(self, s):
        """A part of what is pinned, or all."""
        seq = self.seqs[s]
        if not seq.pins or self.rng.random() < 0.2:
            self.context.unpin(s, None, None)
            seq.pins = frozenset()
        else:
            start = int(self.rng.choice(sorted(seq.pins)))
            stop = start + int(self.rng.integers(1, 100))
            self.context.unpin(s, start, stop)
            seq.pins = seq.pins - set(range(start, stop))
        self.check()
