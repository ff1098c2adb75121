"""Read a long text with a budget and show that the process's memory no longer grows after the first eviction.

    python scripts/checks/memory.py                  100,000 tokens with the demo model, about 6 minutes on 2 cores
    python scripts/checks/memory.py --tokens 6000

The context has no end unless --ctx gives it one. The last line of the output is one JSON object; its `growth` is how much the peak
resident memory grew after the first eviction, as a share, and `bytes_per_token` what the second half of the text added to the resident
memory. Exit status 1 above 2 %.
"""

import argparse
import json
import sys
import time
from pathlib import Path


def memory(field: str = "VmRSS") -> int:
    """Resident memory of this process in bytes: now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    import pydoc_data.topics

    from capkv_edge import Llama, models

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=models.DEMO, help="a GGUF file, or demo (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=100_000, help="tokens to read (default: %(default)s)")
    parser.add_argument("--ctx", type=int, default=None, help="n_ctx (default: no end)")
    parser.add_argument("--budget", default="512", help="kv_budget (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="n_batch (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: the cores that it may use)")
    args = parser.parse_args()

    llm = Llama(
        models.resolve(args.model),
        n_ctx=args.ctx,
        n_batch=args.batch,
        kv_budget=args.budget,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        verbose=False,
    )
    text = llm.tokenize("\n\n".join(pydoc_data.topics.topics.values()).encode(), add_bos=False)
    tokens = (text * (args.tokens // len(text) + 1))[: args.tokens]

    at_eviction, at_half, t_start = None, None, time.perf_counter()
    for i in range(0, len(tokens), args.batch):
        llm.eval(tokens[i : i + args.batch])
        if at_eviction is None and llm.kv_stats().n_evictions:
            at_eviction = memory("VmHWM")
        if at_half is None and 2 * llm.n_tokens >= len(tokens):
            n_half, at_half = llm.n_tokens, memory()
        if i // args.batch % 20 == 0:
            print(f"{llm.n_tokens:>8,} tokens  {llm.kv_stats().n_used:>6,} cells  {memory() / 2**20:8.1f} MiB", flush=True)

    stats, peak = llm.kv_stats(), memory("VmHWM")
    if at_eviction is None:
        print("nothing was evicted: read more tokens", file=sys.stderr)
        return 1
    result = {
        "model": Path(llm.model_path).name,
        "config": stats.config.as_dict(),
        "n_ctx": None if llm.is_endless else llm.n_ctx(),
        "n_tokens": stats.n_tokens,
        "n_cells": stats.n_cells,
        "n_evictions": stats.n_evictions,
        "bytes_kv": stats.bytes_kv,
        "bytes_full": stats.bytes_full,
        "peak_after_first_eviction": at_eviction,
        "peak_at_end": peak,
        "bytes_per_token": round((memory() - at_half) / max(1, llm.n_tokens - n_half), 1),
        "growth": round(peak / at_eviction - 1, 5),
        "seconds": round(time.perf_counter() - t_start, 1),
    }
    print(json.dumps(result))
    return 0 if result["growth"] <= 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
