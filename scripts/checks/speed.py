"""Measure the speed with a budget and with the full cache, on the same text, by turns, each in a process of its own.

    python scripts/checks/speed.py [--model demo] [--read 8000] [--decode 512] [--budget 1024] [--repeat 3] [--threads 2]

Reads a text in batches of 512, then decodes more of it token by token, teacher-forced, so that both do the same work. Prints
medians over the rounds and their ratios; the last line of the output is one JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from capkv_edge import crashes

ROOT = Path(__file__).resolve().parents[2]


def measure(args):
    from pydoc_data.topics import topics

    from capkv_edge import Llama
    from capkv_edge.models import resolve

    llm = Llama(
        str(resolve(args.model)),
        n_ctx=args.read + args.decode + 256,
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        flash_attn=True,
        kv_budget=args.side,
        verbose=False,
    )
    tokens = llm.tokenize("\n\n".join(topics[key] for key in sorted(topics)).encode())[: args.read + args.decode]

    def evict_s():
        return llm.kv_stats().t_evict_us / 1e6 if args.side else 0.0

    t0 = time.perf_counter()
    for i in range(0, args.read, 512):
        llm.eval(tokens[i : min(i + 512, args.read)])
    t1, e1 = time.perf_counter(), evict_s()
    for token in tokens[args.read :]:
        llm.eval([token])
    t2, e2 = time.perf_counter(), evict_s()

    row = dict(read_tps=args.read / (t1 - t0), decode_tps=args.decode / (t2 - t1))
    row |= dict(evict_read=e1 / (t1 - t0), evict_decode=(e2 - e1) / (t2 - t1))
    if args.side:
        stats = llm.kv_stats()
        row |= dict(evictions=stats.n_evictions, evict_ms=e2 * 1e3 / max(stats.n_evictions, 1))
        row |= dict(mib=(stats.bytes_kv + stats.bytes_obs) / 2**20)
    print(json.dumps(row))


def side(args, budget):
    command = [sys.executable, __file__, "--side", str(budget), "--model", args.model, "--threads", str(args.threads)]
    command += ["--read", str(args.read), "--decode", str(args.decode)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr[-2000:]}\ncapkv: {crashes.explain(command, done.returncode) or 'a side failed'}")
    return json.loads(done.stdout.splitlines()[-1])


def commit():
    found = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("read", 8000), ("decode", 512), ("budget", 1024), ("repeat", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        return measure(args)

    rows = {0: [], args.budget: []}
    for i in range(args.repeat):
        for budget in rows:
            rows[budget].append(side(args, budget))
            print(f"round {i + 1}, budget {budget or 'none'}: {rows[budget][-1]}", file=sys.stderr)

    def median(budget, key):
        return statistics.median(row[key] for row in rows[budget])

    print(f"{'':24} {'full':>9} {'budget':>9} {'ratio':>7}")
    ratios = {}
    for key, label in (("read_tps", f"read {args.read}, tok/s"), ("decode_tps", f"decode {args.decode}, tok/s")):
        full, ours = median(0, key), median(args.budget, key)
        ratios[key] = ours / full
        print(f"{label:24} {full:9.1f} {ours:9.1f} {ours / full:7.2f}")
    for key, label in (("evict_read", "evictions, of reading"), ("evict_decode", "evictions, of decoding")):
        print(f"{label:24} {'':9} {median(args.budget, key):9.1%}")
    pin = dict(line.split("=", 1) for line in (ROOT / "LLAMA_CPP_VERSION").read_text().split() if "=" in line)
    about = dict(pin=pin.get("version"), commit=commit(), machine=platform.processor() or platform.machine(), **vars(args))
    print(json.dumps(dict(ratios=ratios, rows={str(k): v for k, v in rows.items()}, **about)))


if __name__ == "__main__":
    main()
