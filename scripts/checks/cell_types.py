"""Measure what the type of K and V costs: batches of many sizes over a cache in each type, with and without copies in f32.

    python scripts/checks/cell_types.py [--model demo] [--budget 1024] [--types f16,bf16,q8_0] [--batches 1,8,32,64,512] [--rounds 5]

With a budget, attention over cells that are not f16 takes copies of K and V in f32, if a batch is long enough (native/capkv-cast.h).
A column "TYPE plain" is the same without copies: a full cache of as many cells. Each cache holds `budget` tokens, none are evicted, and
each batch is taken back after it was read. All are measured by turns in one process; a figure is the median over the rounds of the
tokens per second, and next to it the median of its ratios to the first type. The last line of the output is one JSON object.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np

from capkv_edge import Llama
from capkv_edge.config import CACHE_TYPES, cache_type

N_MAX = 512


def open_caches(args) -> dict:
    """{name: a Llama that holds args.budget tokens}."""
    caches = {}
    for kind in args.types.split(","):
        number = cache_type(kind, "--types")
        for name, kv in ((kind, {"kv_budget": args.budget}), (f"{kind} plain", {"kv_budget": 0, "n_ctx": args.budget + N_MAX})):
            if kind in ("f16", "f32") and "plain" in name:
                continue
            threads = dict(n_threads=args.threads, n_threads_batch=args.threads)
            caches[name] = Llama(args.model, n_batch=N_MAX, type_k=number, type_v=number, flash_attn=True, verbose=False, **threads, **kv)
            caches[name].eval(tokens_of(caches[name], args.budget, 0))
    return caches


def tokens_of(llm, n: int, seed: int) -> list:
    return np.random.default_rng(seed).integers(0, llm.n_vocab(), n).tolist()


def seconds(llm, n: int) -> float:
    """For a batch of n tokens, after those that the cache holds; short ones are repeated."""
    held, tokens, times = llm.n_tokens, tokens_of(llm, n, n), []
    for _ in range(1 + max(2, 16 // n)):
        start = time.perf_counter()
        llm.eval(tokens)
        times.append(time.perf_counter() - start)
        assert llm._remove_from(held)
        llm.n_tokens = held
    return statistics.median(times[1:])  # the first one builds the graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--types", default="f16,bf16,q8_0", help=", ".join(CACHE_TYPES))
    parser.add_argument("--batches", default="1,4,8,16,32,64,128,512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    caches = open_caches(args)
    first = next(iter(caches))
    print(f"{'tokens':>6} " + "".join(f"{name:>20}" for name in caches))
    rows = []
    for n in map(int, args.batches.split(",")):
        rounds = [{name: n / seconds(llm, n) for name, llm in caches.items()} for _ in range(args.rounds)]
        speed = {name: statistics.median(one[name] for one in rounds) for name in caches}
        ratio = {name: statistics.median(one[name] / one[first] for one in rounds) for name in caches}
        print(f"{n:6d} " + "".join(f"{speed[name]:12.1f} {ratio[name]:6.2f}x" for name in caches), flush=True)
        rows.append(dict(tokens=n, tps=speed, ratio=ratio))
    mib = {name: llm.kv_stats().bytes_kv / 2**20 for name, llm in caches.items() if llm.kv_config}
    print("K and V: " + ", ".join(f"{name} {size:.1f} MiB" for name, size in mib.items()))
    print(json.dumps(dict(model=args.model, budget=args.budget, machine=platform.processor() or platform.machine(), mib=mib, rows=rows)))


if __name__ == "__main__":
    main()
