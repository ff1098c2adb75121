"""The operations of a soak that save: in memory and in files, all sequences and one, sessions, and into another context."""

import os
from dataclasses import replace

import numpy as np


class Saves:
    """Mixed into Soak."""

    def restored(self, save, load, s):
        """save(), on with s, load(): all is as it was, and goes on as it did."""
        before, exact = [seq.copy() for seq in self.seqs], not self.seqs[s].scattered
        state, token = save(), int(self.draw(1)[0])
        want = self.go_on(s, self.rng.integers(4, 25), token)
        load(state)
        for seq, old in zip(self.seqs, before):
            seq.copy_from(old)
        self.check_as_saved()
        self.same_again(s, token, want, exact, "what was restored goes on as what was saved")

    def check_as_saved(self):
        """The figures are those that were saved, the time spent in evictions too."""
        saved = [seq.stats for seq in self.seqs]
        self.check()
        for seq, was in zip(self.seqs, saved):
            not_saved = ("bytes_work", "t_score_us", "t_select_us", "t_compact_us")  # the context's, and the parts of t_evict_us
            was = replace(was, **{name: getattr(seq.stats, name) for name in not_saved})
            self.that(seq.stats == was, "a restored context has the figures of the saved one", was, seq.stats)

    def _path(self):
        return os.path.join(self.folder, "state")

    def _in_memory(self, s, of):
        def load(data):
            self.that(self.context.load(data, of), "a saved state is taken back")

        self.restored(lambda: self.context.save(of), load, s)

    def _in_a_file(self, s, of):
        ids = self.draw(self.rng.integers(1, 100)).tolist()

        def load(_):
            self.that(self.context.load_file(self._path(), of, 100) == ids, "a saved file is taken back")

        def save():
            self.that(self.context.save_file(self._path(), of, ids), "a state is saved in a file")

        self.restored(save, load, s)

    def save_in_memory(self, s):
        self._in_memory(s, None)

    def save_in_a_file(self, s):
        self._in_a_file(s, None)

    def save_a_sequence_in_memory(self, s):
        self._in_memory(s, s)

    def save_a_sequence_in_a_file(self, s):
        self._in_a_file(s, s)

    def save_a_session(self, s):
        seq = self.seqs[s]
        ids = seq.ids[: seq.end].copy()

        def load(_):
            self.that(np.array_equal(self.context.load_session(self._path()), ids), "a session has its tokens")

        self.restored(lambda: self.context.save_session(self._path(), ids), load, s)

    def move_to_the_other_context(self, s):
        """Which may hold something else, and is where all goes on then; or sequence by sequence, in another order."""
        n_seq, token = self.context.n_seq, int(self.draw(1)[0])
        before, exact = [seq.copy() for seq in self.seqs], not self.seqs[s].scattered
        order = [None] if self.rng.random() < 0.5 else self.rng.permutation(n_seq).tolist()
        states = [self.context.save(of) for of in order]
        want = self.go_on(s, self.rng.integers(4, 25), token)
        for seq, old in zip(self.seqs, before):
            seq.copy_from(old)
        self.context, self.other = self.other, self.context
        for i, data in enumerate(states):
            self.that(self.context.load(data, None if order == [None] else i), "another context takes a state")
        if order != [None]:
            self.seqs, s = [self.seqs[j] for j in order], order.index(s)
        self.check_as_saved()
        self.same_again(s, token, want, exact, "another context goes on as the first one")
        if self.rng.random() < 0.5:
            self.other.clear(False)
