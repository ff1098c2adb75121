"""A context of N_SEQ sequences with a budget of 64 for the tiny llama, and greedy decoding on it."""

from raw_context import RawContext

from capkv_edge import CapkvConfig

N_SEQ, N_BATCH = 4, 32


class Context(RawContext):
    def __init__(self, path, policy="capkv", type_k=1, type_v=1, **options):
        config = CapkvConfig(**{"budget": 64, "policy": policy, "type": "f16", **options})
        super().__init__(path, config, n_ctx=2048 * N_SEQ, n_batch=N_BATCH, n_seq=N_SEQ, type_k=type_k, type_v=type_v)

    def end(self, seq=0):
        """The next position."""
        return self.pos_max(seq) + 1

    def decode(self, tokens, seq=0):
        """What llama_decode() says to at most N_BATCH tokens."""
        first, last = self.end(seq), len(tokens) - 1
        return self.decode_rows([((seq,), first + i, token, i == last) for i, token in enumerate(tokens)])

    def read(self, tokens, seq=0):
        for i in range(0, len(tokens), N_BATCH):
            assert self.decode(tokens[i : i + N_BATCH], seq) == 0

    def go_on(self, n, seq=0, token=5):
        """The n most likely tokens after `token`, and the last logits."""
        out = []
        for _ in range(n):
            assert self.decode([token], seq) == 0
            logits = self.logits(-1)
            token = int(logits.argmax())
            out.append(token)
        return out, logits.tobytes()

    def positions(self, seq=0):
        return [head.tolist() for head in self.held(seq)]

    def save(self, path, seq=None, tokens=(1, 2, 3)):
        return self.save_file(path, seq, tokens)

    def load(self, path, seq=None):
        done, ids = self.load_file(path, seq, 3)
        return bool(done) and ids == [1, 2, 3]
