"""Read a million tokens into a cache with a budget, mixed with random operations on it, and check it after each of them.

    python scripts/checks/soak.py                                        1,000,000 tokens, policy capkv, one sequence
    python scripts/checks/soak.py --sequences 4 --tokens 100000
    python scripts/checks/soak.py --policy all --tokens 10000            every policy in turn
    python scripts/checks/soak.py --trained 1024                         new RoPE positions hundreds of times
    python scripts/checks/soak.py --model demo --tokens 20000

The model is a tiny llama with random weights, since it is fast; --model takes demo (SmolLM2-135M) or a GGUF file too. Tokens
are random ids. The operations (tests/helpers/soak_steps.py) are rollbacks, removals, copies, resets, evictions on demand, and
saved and restored states; after each, every sequence, layer and KV head is compared with what it has to hold
(tests/helpers/soak_checks.py). The first difference ends the run with exit status 1. The last line of the output is one JSON object.

Resident memory that grows by more than 2 % also ends in exit status 1. Compared are its largest samples before and after the end of
the warm-up: the first tenth of the tokens, and until each operation was done. With the tiny model 2 % are 1.6 MB, so a million tokens
show a leak of 2 bytes a token, and 60,000 tokens one of 30. What a process without a leak fills slowly would hide that, so it
is filled before: every sequence's cells and llama.cpp's buffers (Soak.fill()), and the freed buffers that NumPy keeps, 3.6 MB. glibc
gives back what is freed at once. What is left, 0.4 to 1.5 %, are Python's free lists and holes in the heap.
"""

import argparse
import ctypes
import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from capkv_edge import models, policies

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "helpers"))

from memory import memory
from soak_checks import Broken
from soak_context import Context
from soak_steps import Soak

N_SAMPLES = 1000


class Memory:
    """Resident memory in bytes, sampled N_SAMPLES times in a run of n_tokens."""

    def __init__(self, n_tokens):
        self.n_tokens, self.next = n_tokens, 0
        self.warm = self.most = 0  # the largest sample of the warm-up, and of the time after it

    def sample(self, n_done, is_warm):
        if n_done < self.next:
            return
        self.next = n_done + self.n_tokens // N_SAMPLES
        now = memory()
        if is_warm:
            self.most = max(self.most, now)
        else:
            self.warm = max(self.warm, now)

    @property
    def growth(self):
        return max(0.0, self.most / self.warm - 1)


def give_back_what_is_freed():
    """Make glibc return freed memory to the system at once, so that holes between buffers do not count as growth."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-1, 128 << 10)  # M_TRIM_THRESHOLD
        mallopt(-3, 64 << 10)  # M_MMAP_THRESHOLD


def fill_numpys_cache():
    """Let NumPy keep all that it ever keeps: 7 freed buffers of each size below 1 KiB. Arrays of random lengths fill them slowly."""
    for n_bytes in range(1, 1024):
        several = [np.empty(n_bytes, np.uint8) for _ in range(7)]
        several.clear()


def soak(path, policy, args, seed):
    """One run with one policy; returns its report."""

    def make():
        return Context(
            path,
            policy=policy,
            budget=args.budget,
            batch=args.batch,
            ctx=args.ctx,
            sequences=args.sequences,
            threads=args.threads,
            reindex=args.reindex,
        )

    with tempfile.TemporaryDirectory() as folder:
        run, resident, t_start, shown = Soak(make, folder, seed), Memory(args.tokens), time.perf_counter(), 0
        while run.n_tokens < args.tokens:
            try:
                run.step()
            except Broken as err:
                steps = f"after {run.n_tokens:,} tokens, the last steps being {', '.join(run.last)}"
                raise Broken(f"policy {policy}, seed {seed}, {steps}: {err}") from err
            resident.sample(run.n_tokens, run.n_tokens >= args.tokens / 10 and not run.first)
            if run.n_tokens >= shown:
                shown += args.tokens / 20
                line = f"{policy:10} {run.n_tokens:>9,} tokens  {run.n_evictions:>6,} evictions  {memory() / 2**20:7.1f} MiB"
                print(f"{line}  {run.checker.n_checks:>11,} checks", flush=True)
        run.close()

    seconds = time.perf_counter() - t_start
    decoding = run.context.seconds + run.other.seconds
    return {
        "model": Path(path).name,
        "policy": policy,
        "seed": seed,
        "budget": args.budget,
        "n_batch": args.batch,
        "n_cells": run.seqs[0].n_cells,
        "sequences": args.sequences,
        "n_tokens": run.n_tokens,
        "seconds": round(seconds, 1),
        "seconds_decode": round(decoding, 1),
        "tokens_per_s": round(run.n_tokens / decoding, 1),
        "n_evictions": run.n_evictions,
        "n_reindexes": run.n_reindexes,
        "evict_ms": round(run.evict_us / 1e3 / max(run.n_evictions, 1), 3),
        "n_checks": run.checker.n_checks,
        "steps": dict(sorted(run.counts.items())),
        "rss_warm": resident.warm,
        "rss_most": resident.most,
        "growth": round(resident.growth, 5),
    }


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--model", default="tiny", help="tiny, demo or a GGUF file (default: %(default)s)")
    parser.add_argument("--policy", default="capkv", choices=["all", *policies()], metavar="NAME", help="a policy, or all")
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--batch", type=int, default=256, help="n_batch; n_ubatch is half of it (default: %(default)s)")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--ctx", type=int, default=16384, help="n_ctx, the longest that a sequence gets (default: %(default)s)")
    parser.add_argument("--trained", type=int, default=4096, help="the length that the tiny model is trained to (default: %(default)s)")
    parser.add_argument("--reindex", default="auto", choices=["auto", "never", "always"], help="kv_reindex (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-growth", type=float, default=0.02, help="allowed growth of memory, as a share (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the operations and tokens (default: a random one)")
    args = parser.parse_args(argv)
    if args.tokens < 1 or args.sequences < 1 or args.batch < max(2, args.sequences):
        parser.error("--tokens and --sequences are at least 1, --batch is at least 2 and at least the number of sequences")
    if args.ctx < 16 * args.batch + 512:
        parser.error(f"--ctx = {args.ctx}: allowed is at least 16 batches + 512 = {16 * args.batch + 512}")
    return args


def main(argv=None) -> int:
    args = parse(argv)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    names = list(policies()) if args.policy == "all" else [args.policy]
    print(f"seed {seed}", flush=True)
    give_back_what_is_freed()
    fill_numpys_cache()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        if args.model == "tiny":
            import tiny_models

            tiny_models.write_llama(path, n_ctx=args.trained)
        else:
            path = models.resolve(args.model)
        try:
            runs = [soak(path, name, args, seed) for name in names]
        except Broken as err:
            print(f"broken: {err}", file=sys.stderr)
            return 1
    flat = all(run["growth"] <= args.max_growth for run in runs)
    if not flat:
        print(f"resident memory grew by more than {args.max_growth:.0%} after the warm-up", file=sys.stderr)
    print(json.dumps(runs[0] if len(runs) == 1 else {"runs": runs}))
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
