"""How near an eviction's kernels come to what the processor can do.

    python scripts/checks/eviction_rate.py [--model demo] [--budget 1024] [--read 4096] [--repeat 3] [--threads 2]

Each round measures by turns, on one thread and on all, each in a process of its own:

- NumPy's float32 matrix products in the shapes of the kernels of policy `capkv`: the rate of the machine
- evictions while a text is read in batches of 512

The rate of an eviction is the operations that its formulas need (half a product where a matrix is symmetric or triangular),
divided by all of its time: gathering the cells, choosing and moving entries too. Printed are medians over the rounds: both rates in
Gflop/s, their ratio, the time of one eviction and its share of the time to read 512 tokens. The last line is one JSON object.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from capkv_edge import crashes

ROOT = Path(__file__).resolve().parents[2]
BATCH = 512


def n_queries() -> int:
    """How many queries policy `capkv` samples."""
    source = (ROOT / "native" / "policies" / "capkv.cpp").read_text(encoding="utf-8")
    return int(re.search(r"CAPKV_N_RES += (\d+);", source)[1])


def flops(layer, n, n_kept, m):
    """Operations of the kernels for one layer: n entries, of which n_kept stay, m sampled queries.

    Args:
        layer: dict of n_head, n_head_kv, d_k, d_v.
    """
    d_k, d_v, n_head, n_head_kv = (layer[name] for name in ("d_k", "d_v", "n_head", "n_head_kv"))
    logits = 2 * n * d_k * m * n_head
    half = d_v * (d_v + 1)  # a symmetric sum of outer products, a product with a triangular matrix: per entry
    return logits + half * (2 * n * n_head + (n + n_kept) * n_head_kv)


def measure_matrix(shape, m):
    """Gflop/s of NumPy's products in the shapes of the kernels: [n, d_k] x [d_k, m r], [d_v, n] x [n, d_v], [n, d_v] x [d_v, d_v r]."""
    import numpy as np

    n, layer = shape["n"], shape["layer"]
    r = layer["n_head"] // layer["n_head_kv"]
    d_k, d_v = layer["d_k"], layer["d_v"]
    rng = np.random.default_rng(0)
    pairs = [((n, d_k), (d_k, m * r)), ((d_v, n), (n, d_v)), ((n, d_v), (d_v, d_v * r))]
    pairs = [[rng.normal(size=size).astype(np.float32) for size in sizes] for sizes in pairs]
    took, work = [], sum(2 * a.size * b.shape[1] for a, b in pairs)
    until = time.perf_counter() + 2
    while time.perf_counter() < until:
        begin = time.perf_counter()
        for a, b in pairs:
            a @ b
        took.append(time.perf_counter() - begin)
    return dict(gflops=work / statistics.median(took[len(took) // 4 :]) / 1e9)


def shape_of(llm):
    """What flops() needs of a model: the sizes of each layer that a budget governs."""
    arch = llm.metadata["general.architecture"]
    n_head = int(llm.metadata[f"{arch}.attention.head_count"])
    d = int(llm.metadata[f"{arch}.embedding_length"]) // n_head
    d_k, d_v = (int(llm.metadata.get(f"{arch}.attention.{name}_length", d)) for name in ("key", "value"))
    return [dict(n_head=n_head, n_head_kv=llm.kv_heads(i), d_k=d_k, d_v=d_v) for i in llm.kv_layers]


def measure_evictions(args, threads):
    """Times of evictions in ms, their rate, and the time to read 512 tokens without them in ms."""
    from pydoc_data.topics import topics

    from capkv_edge import Llama
    from capkv_edge.models import resolve

    llm = Llama(
        str(resolve(args.model)),
        n_ctx=args.read + 256,
        n_batch=BATCH,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=0,
        kv_budget=args.budget,
        kv_policy="capkv",
        verbose=False,
    )
    layers, m = shape_of(llm), n_queries()
    text = "\n\n".join(topics[key] for key in sorted(topics))[: 8 * args.read]  # a token has fewer characters than that
    tokens = llm.tokenize(text.encode())[: args.read]
    took, rates, read, n_most = [], [], [], 0
    for i in range(0, len(tokens) // BATCH * BATCH, BATCH):
        before, begin = llm.kv_stats(), time.perf_counter()
        llm.eval(tokens[i : i + BATCH])
        ms, after = 1e3 * (time.perf_counter() - begin), llm.kv_stats()
        evicting = (after.t_evict_us - before.t_evict_us) / 1e3
        read.append(ms - evicting)
        if after.n_evictions == before.n_evictions + 1:
            n, n_kept = before.n_used, after.n_used - BATCH
            n_most = max(n, n_most)
            took.append(evicting)
            rates.append(sum(flops(layer, n, n_kept, m) for layer in layers) / evicting / 1e6)
    llm.close()
    if not took:
        raise SystemExit(f"capkv: --read {args.read}: the tokens fit into {after.n_cells:,} cells, so nothing was evicted: read more")
    median = statistics.median
    shape = dict(n=n_most, layer=layers[0], n_layers=len(layers))
    return dict(ms=median(took), gflops=median(rates), read_ms=median(read), n_evictions=len(took), shape=shape)


def run(args, part, threads):
    """What a process of its own measures with some threads."""
    command = [sys.executable, __file__, "--part", json.dumps(dict(part, threads=threads))]
    command += [f"--{name}={getattr(args, name)}" for name in ("model", "budget", "read")]
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {name: str(threads) for name in names})
    if done.returncode:
        raise SystemExit(f"{done.stderr[-2000:]}\ncapkv: {crashes.explain(command, done.returncode) or 'a part failed'}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    for name, default in (("budget", 1024), ("read", 4096), ("repeat", 3), ("threads", os.cpu_count())):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        part = json.loads(args.part)
        found = measure_matrix(part["shape"], n_queries()) if "shape" in part else measure_evictions(args, part["threads"])
        print(json.dumps(found))
        return

    rows = []
    for _ in range(args.repeat):
        for threads in sorted({1, args.threads}):
            evicted = run(args, {}, threads)
            matrix = run(args, dict(shape=evicted["shape"]), threads)
            rows.append(dict(threads=threads, matrix=matrix["gflops"], **evicted))

    shape = rows[0]["shape"]
    print(f"{shape['n']:,} entries, {shape['n_layers']} layers of {shape['layer']}")
    print(f"{'threads':>7} {'machine, Gflop/s':>17} {'eviction, Gflop/s':>18} {'ratio':>6} {'ms per eviction':>16} {'of reading 512':>15}")
    for threads in sorted({1, args.threads}):
        found = [row for row in rows if row["threads"] == threads]

        def median(value, found=found):
            return statistics.median(value(row) for row in found)

        print(
            f"{threads:7} {median(lambda row: row['matrix']):17.1f} {median(lambda row: row['gflops']):18.1f}"
            f" {median(lambda row: row['gflops'] / row['matrix']):6.0%} {median(lambda row: row['ms']):16.1f}"
            f" {median(lambda row: row['ms'] / row['read_ms']):15.1%}"
        )
    print(json.dumps(dict(rows=rows, **{name: value for name, value in vars(args).items() if name != "part"})))


if __name__ == "__main__":
    main()
