"""The operations of a soak. Each is random: it tells the Sequence what comes, does it, and checks everything."""

from collections import Counter, deque

import numpy as np
from soak_checks import Checker, Seen, Sequence
from soak_pins import Pins
from soak_saves import Saves

LONGEST_REREAD = 4096  # tokens

# {operation: (relative frequency, sequences that the context must have: 2 = several, 1 = one, 0 = any number)}
STEPS = {
    "read": (30, 0),
    "read_full_batches": (16, 0),
    "read_token_by_token": (10, 0),
    "read_mixed": (30, 2),
    "roll_back": (5, 0),
    "roll_back_exactly": (5, 0),
    "roll_back_too_far": (4, 0),
    "remove_within_the_tail": (2, 0),
    "reset": (0.3, 0),
    "clear": (0.1, 0),
    "compress": (5, 0),
    "pin": (8, 0),
    "pin_too_much": (1, 0),
    "pin_what_is_lost": (2, 0),
    "unpin": (4, 0),
    "save_in_memory": (2, 0),
    "save_in_a_file": (2, 0),
    "save_a_sequence_in_memory": (2, 0),
    "save_a_sequence_in_a_file": (2, 0),
    "save_a_session": (2, 1),
    "move_to_the_other_context": (1, 0),
    "fork": (4, 2),
}


class Soak(Saves, Pins):
    """Two contexts: one that is worked on, one that states are moved to. Tokens are random ids."""

    def __init__(self, make_context, folder, seed):
        self.rng = np.random.default_rng(seed)
        self.context, self.other = make_context(), make_context()
        self.folder = str(folder)
        self.checker = Checker()
        for c in (self.other, self.context):
            self.fill(c)
        now = c.stats(0)
        self.seqs = [Sequence(c.config, len(c.heads), now.n_cells, c.n_ctx, now.n_pos_max) for _ in range(c.n_seq)]
        self.n_tokens = self.n_evictions = self.n_reindexes = self.evict_us = 0
        self.counts, self.last = Counter(), deque(maxlen=6)
        self.kinds = [name for name, (_, of) in STEPS.items() if of == 0 or (of == 1) == (c.n_seq == 1)]
        weights = np.array([STEPS[name][0] for name in self.kinds])
        self.weights = weights / weights.sum()
        # each operation once at the start, so that a short run has them all and memory reaches its full size early
        self.first = list(self.rng.permutation(["read_full_batches", *self.kinds]))
        self.check()

    def fill(self, c):
        """Read past the cells of every sequence, save, restore, and clear: no buffer is to reach its full size later than now."""
        ends = [0] * c.n_seq
        for s in range(c.n_seq):
            while ends[s] < c.stats(s).n_cells + c.n_batch:
                for all_logits in (True, False):  # llama.cpp keeps a graph with logits and one without
                    c.decode([(s, ends[s], self.draw(c.n_batch))], all_logits)
                    ends[s] += c.n_batch
        c.decode([(s, end, self.draw(c.n_batch // c.n_seq)) for s, end in enumerate(ends)], all_logits=True)
        c.load(c.save(None), None)
        c.clear(True)
        c.seconds = 0.0

    def close(self):
        self.context.close()
        self.other.close()

    @property
    def that(self):
        return self.checker.that

    def step(self):
        """One operation; raises Broken if anything is wrong after it."""
        name = self.first.pop() if self.first else self.kinds[self.rng.choice(len(self.kinds), p=self.weights)]
        s = int(self.rng.integers(self.context.n_seq))
        for i, seq in enumerate(self.seqs):
            if seq.end + 8 * self.context.n_batch + 256 > self.context.n_ctx:
                self.reset(i)
                self.counts["reset"] += 1
        self.last.append(f"{name}({s})")
        getattr(self, name)(s)
        self.counts[name] += 1

    def check(self):
        for s, seq in enumerate(self.seqs):
            before = seq.stats
            seen = Seen.of(self.context, s)
            evicted = seq.target is not None
            seq.check(self.that, seen)
            if evicted:
                self.n_evictions += 1
                self.n_reindexes += seen.stats.n_reindexes > before.n_reindexes
                self.evict_us += seen.stats.t_evict_us - before.t_evict_us
            elif before is not None and seq.n_evictions == before.n_evictions:
                self.that(seen.stats.t_evict_us == before.t_evict_us, "only evictions take time", before, seen.stats)

    # --- reading ---

    def draw(self, n):
        return self.rng.integers(3, self.context.n_vocab, n)

    def decode(self, parts, all_logits=False):
        """[(sequence, token ids)] in one batch; the last logits of each."""
        rows = [(s, self.seqs[s].end, ids) for s, ids in parts]
        for s, ids in parts:
            self.seqs[s].append(ids)
        logits = self.context.decode(rows, all_logits)
        self.that(logits is not None, "a batch is decoded", [(s, first, len(ids)) for s, first, ids in rows])
        mixed = len(parts) > 1 and any(seq.target is not None for seq in self.seqs)
        self.n_tokens += sum(len(ids) for _, ids in parts)
        for part in logits:
            self.that(np.isfinite(part).all(), "logits are finite")
        self.check()
        if mixed:  # after an attempt without an eviction, llama.cpp begins its search for cells somewhere else
            for s, _ in parts:
                self.seqs[s].scattered = True
        return [part[-1] for part in logits]

    def read_ids(self, s, ids):
        for i in range(0, len(ids), self.context.n_batch):
            self.decode([(s, ids[i : i + self.context.n_batch])])

    def go_on(self, s, n, token):
        """n tokens, greedily, and the logits of each."""
        logits = []
        for _ in range(n):
            logits += self.decode([(s, [token])])
            token = int(logits[-1].argmax())
        return logits

    def same_again(self, s, token, want, exact, what):
        """The same tokens give the same logits again: bit for bit where the cells are in the same order, else within 0.05."""
        for logits in want:
            again = self.decode([(s, [token])])[0]
            same = np.array_equal(again, logits) if exact else np.allclose(again, logits, atol=0.05)
            self.that(same, what, float(np.abs(again - logits).max()))
            token = int(logits.argmax())

    def read(self, s):
        all_logits = self.rng.random() < 0.1
        self.decode([(s, self.draw(self.rng.integers(1, self.context.n_batch + 1)))], all_logits)

    def read_full_batches(self, s):
        self.read_ids(s, self.draw(self.context.n_batch * self.rng.integers(1, 5)))

    def read_token_by_token(self, s):
        self.go_on(s, self.rng.integers(1, 65), int(self.draw(1)[0]))

    def read_mixed(self, s):
        """A batch with tokens of several sequences."""
        n = self.rng.integers(2, self.context.n_seq + 1)
        some = self.rng.choice(self.context.n_seq, n, replace=False)
        room = self.context.n_batch // n
        self.decode([(int(i), self.draw(self.rng.integers(1, room + 1))) for i in some])

    # --- going back ---

    def roll_back(self, s):
        """To somewhere in the exact tail, often its very beginning, and on with other tokens."""
        seq = self.seqs[s]
        first = max(seq.pos_tail, 1)
        if seq.end <= first:
            return self.read(s)
        p0 = first if self.rng.random() < 0.2 else int(self.rng.integers(first, seq.end))
        self.that(self.context.rm(s, p0, -1), "a rollback within the tail is done", seq.pos_tail, p0)
        seq.cut(p0, seq.end)
        self.check()
        if self.rng.random() < 0.3:
            self.compress(s)
        self.read(s)

    def roll_back_exactly(self, s):
        """The same tokens once more."""
        seq = self.seqs[s]
        room = min(seq.n_cells - seq.n_used, seq.n_positions_left)  # no eviction on the way
        if room <= 0 or seq.end == 0:
            return self.read(s)
        p0, token = seq.end, int(self.draw(1)[0])
        want = self.go_on(s, min(room, self.rng.integers(1, 33)), token)
        self.that(self.context.rm(s, p0, -1), "a rollback within the tail is done", seq.pos_tail, p0)
        seq.cut(p0, seq.end)
        self.check()
        self.same_again(s, token, want, not seq.scattered, "a rollback is exact")

    def roll_back_too_far(self, s):
        """Refused; then the text is read anew, or the sequence goes on."""
        seq = self.seqs[s]
        if seq.pos_tail < 2:
            return self.read(s)
        p0 = int(self.rng.integers(1, min(seq.pos_tail, LONGEST_REREAD)))
        p1 = int(self.rng.choice([-1, p0 + 1, seq.end]))
        who = int(self.rng.choice([s, -1]))
        self.that(not self.context.rm(who, p0, p1), "a rollback into the middle is refused", p0, p1, seq.pos_tail)
        self.check()
        if self.rng.random() < 0.5:
            ids = seq.ids[:p0].copy()
            self.reset(s)
            self.read_ids(s, ids)
        else:
            self.read(s)

    def remove_within_the_tail(self, s):
        seq = self.seqs[s]
        first = max(seq.pos_tail, seq.config.sink)
        if seq.end - first < 3:
            return self.read(s)
        p0, p1 = np.sort(self.rng.choice(np.arange(first, seq.end - 1), 2, replace=False)).tolist()
        self.that(self.context.rm(s, p0, p1), "a removal within the tail is done", p0, p1)
        seq.cut(p0, p1)
        self.check()
        self.read(s)

    def reset(self, s):
        self.that(self.context.rm(s, -1, -1), "a whole sequence can go")
        self.seqs[s].clear()
        self.check()

    def clear(self, s):
        self.context.clear(bool(self.rng.random() < 0.5))
        for seq in self.seqs:
            seq.clear()
        self.check()

    # --- evicting ---

    def compress(self, s):
        seq = self.seqs[s]
        least = seq.config.sink + seq.config.recent + 1
        kind = self.rng.random()
        if kind < 0.1:
            try:
                self.context.compress(s, least - 1)
                self.that(False, "a budget that is too small is refused")
            except ValueError as err:
                self.that("allowed" in str(err), "what is refused says what is allowed", err)
        else:
            n = 0 if kind < 0.5 else int(self.rng.integers(least, max(seq.n_used, least) + 1))
            if not seq.has_room(n or seq.config.budget, seq.pins):
                return self.refused(lambda: self.context.compress(s, n), "pinned tokens")
            want = max(0, seq.n_used - (n or seq.config.budget))
            seq.compress(n or seq.config.budget)
            got = self.context.compress(s, n)
            self.that(got == want, "compress() says how many tokens went", want, got)
        self.check()

    # --- several sequences ---

    def fork(self, s):
        t = int(self.rng.choice([i for i in range(self.context.n_seq) if i != s]))
        self.context.cp(s, t)
        self.seqs[t].copy_from(self.seqs[s])
        self.check()
        self.that(self.seqs[t].stats == self.seqs[s].stats, "a copy has the figures of its source", t, s)
        then = self.rng.random()
        if then < 0.25:
            self.compress(int(self.rng.choice([s, t])))
        elif then < 0.5:
            data = self.context.save(t)
            self.that(self.context.load(data, t), "a copy can be saved at once")
            self.check()
        elif then < 0.75:
            return self.reset(s)
        else:
            token = int(self.draw(1)[0])
            want = self.go_on(s, self.rng.integers(1, 17), token)
            self.same_again(t, token, want, True, "a copy goes on as its source")
