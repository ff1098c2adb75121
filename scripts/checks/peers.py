"""Compare our policies with those of kvpress, on the same weights, texts and budget: an optional check of what we wrote.

    pip install torch==2.13.0 'transformers<5.3' accelerate cachetools datasets gguf && pip install --no-deps kvpress==0.5.5
    python scripts/checks/peers.py [--model demo] [--read 1024] [--budget 256] [--score 128] [--docs 8]

kvpress compresses once, after a prompt. So both read a text, evict down to the budget once, and read on, teacher-forced, without
another eviction. Printed is the mean KL divergence over the tokens after the eviction, each from its own full cache, with
intervals over documents. kvpress runs the dequantized weights in float32. The last line of the output is one JSON object.

Two differences: kvpress protects no recent tokens, so ours run with recent=1 here; and its random policy drops sinks too.
"""

import argparse
import json

import numpy as np

from capkv_edge.bench import intervals
from capkv_edge.bench.measure import divergence
from capkv_edge.bench.tasks import corpora
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.setups import Setup

#: our name: (kvpress's class, its arguments)
PRESSES = {
    "capkv-ref": ("CapPress", {}),
    "expected": ("ExpectedAttentionPress", {}),
    "snapkv": ("SnapKVPress", {"window_size": 64, "kernel_size": 5}),
    "tova": ("TOVAPress", {}),
    "keydiff": ("KeyDiffPress", {}),
    "knorm": ("KnormPress", {}),
    "streaming": ("StreamingLLMPress", {"n_sink": 4}),
    "random": ("RandomPress", {"seed": 1}),
}


def ours(engine, args, tokens, setup: Setup) -> np.ndarray:
    """Log probabilities after each scored token: float32 [n, n_vocab]."""
    rows = []
    with engine.open(setup, len(tokens) + 256) as stream:
        stream.read(tokens[: args.read])
        stream.compress()
        scored = np.arange(args.read, len(tokens) - 1)
        stream.read(tokens[args.read :], scored, lambda _, found: rows.append(divergence.log_softmax(found)))
    return np.concatenate(rows)


class Theirs:
    """The model in transformers, with kvpress."""

    def __init__(self, path, threads: int):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()

    def rows(self, args, tokens, policy=None) -> np.ndarray:
        """Log probabilities as ours() returns them; policy None is the full cache."""
        import kvpress
        from transformers import DynamicCache

        torch, cache = self.torch, DynamicCache()
        prompt, rest = (torch.tensor(part.astype(np.int64))[None] for part in (tokens[: args.read], tokens[args.read :]))
        with torch.no_grad():
            if policy is None:
                self.model.model(prompt, past_key_values=cache)
            else:
                name, options = PRESSES[policy]
                ratio = 1 - (args.budget + 0.5) / args.read  # half a token more, since kvpress rounds down
                with getattr(kvpress, name)(compression_ratio=ratio, **options)(self.model):
                    self.model.model(prompt, past_key_values=cache)
                if cache.get_seq_length() != args.budget:
                    raise RuntimeError(f"{name} kept {cache.get_seq_length()} tokens of {args.budget}")
            at = torch.arange(args.read, len(tokens))[None]
            logits = self.model(rest, past_key_values=cache, position_ids=at).logits[0, :-1]
        return divergence.log_softmax(logits.numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", default="python-docs")
    for name, default in (("read", 1024), ("budget", 256), ("score", 128), ("docs", 8), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()

    n = args.read + args.score + 1
    losses = {policy: ([], []) for policy in PRESSES}
    agree = []
    with Engine(args.model, n_threads=args.threads) as engine:
        theirs = Theirs(engine.path, args.threads)
        for document in corpora.documents(engine, args.text, args.docs, n):
            tokens, targets = document.tokens, document.tokens[args.read + 1 :]
            bases = ours(engine, args, tokens, Setup()), theirs.rows(args, tokens)
            agree.append(divergence.compare(*bases, targets)["kl"].mean())
            for policy, found in losses.items():
                setup = Setup.parse(f"{policy}@{args.budget},recent=1,headroom={n}")
                sides = ours(engine, args, tokens, setup), theirs.rows(args, tokens, policy)
                for base, rows, out in zip(bases, sides, found):
                    out.append(divergence.compare(base, rows, targets)["kl"].mean())

    print(f"the two full caches differ by {np.mean(agree):.4f} nats (quantized kernels against float32)")
    print(f"{'policy':10} {'ours':>24} {'kvpress':>24} {'ours - kvpress':>26}")
    for policy, found in losses.items():
        both = np.array(found).T
        columns = intervals.intervals(np.c_[both, both[:, 0] - both[:, 1]])
        print(f"{policy:10} " + " ".join(f"{one.mean:9.4f} [{one.lo:.4f}, {one.hi:.4f}]" for one in columns))
    print(json.dumps(dict(losses=losses, full=agree, **vars(args))))


if __name__ == "__main__":
    main()
