"""What an eviction costs and retains, for every policy on the same text.

    python scripts/checks/policies.py [--model demo] [--read 8000] [--budget 1024] [--repeat 3] [--threads 2]
        [--gpu-layers 0]

Each round reads the text once with each policy, in batches of 512. Printed are, for each policy, the median time of an eviction,
the share of capacity that the last one retained (under the policy's own weights), and the bytes of observed queries and of work
memory. The last line of the output is one JSON object.
"""

import argparse
import json
import statistics
from pydoc_data.topics import topics

from capkv_edge import Llama, policies
from capkv_edge.models import resolve


def measure(args, policy):
    llm = Llama(
        str(resolve(args.model)),
        n_ctx=args.read + 256,
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        n_gpu_layers=args.gpu_layers,
        kv_budget=args.budget,
        kv_policy=policy,
        verbose=False,
    )
    text = "\n\n".join(topics[key] for key in sorted(topics))[: 8 * args.read]  # a token has fewer characters than that
    llm.eval(llm.tokenize(text.encode())[: args.read])
    stats = llm.kv_stats()
    llm.close()
    if not stats.n_evictions:
        raise SystemExit(f"capkv: --read {args.read}: the tokens fit into {stats.n_cells:,} cells, so nothing was evicted: read more")
    layers = stats.capacity_layers
    return dict(
        ms=stats.t_evict_us / 1e3 / stats.n_evictions,
        n_evictions=stats.n_evictions,
        capacity=stats.capacity,
        least=min(layers),
        most=max(layers),
        mib_observed=stats.bytes_obs / 2**20,
        mib_work=stats.bytes_work / 2**20,
        mib_kv=stats.bytes_kv / 2**20,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("read", 8000), ("budget", 1024), ("repeat", 3), ("threads", 2), ("gpu-layers", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()

    rows = {policy: [] for policy in policies()}
    for _ in range(args.repeat):
        for policy, found in rows.items():
            found.append(measure(args, policy))

    print(f"{'policy':10} {'ms per eviction':>16} {'capacity':>9} {'by layer':>15} {'observed, MiB':>14} {'work, MiB':>10}")
    for policy, found in rows.items():
        row = found[-1]
        ms = statistics.median(one["ms"] for one in found)
        layers = f"{row['least']:.1%} to {row['most']:.1%}"
        print(f"{policy:10} {ms:16.1f} {row['capacity']:9.1%} {layers:>15} {row['mib_observed']:14.2f} {row['mib_work']:10.2f}")
    print(json.dumps(dict(rows=rows, **vars(args))))


if __name__ == "__main__":
    main()
