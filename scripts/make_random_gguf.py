"""Write a GGUF model with random weights in the shape of a well-known one, to measure speed and memory without a download.

    python scripts/make_random_gguf.py --list
    python scripts/make_random_gguf.py big.gguf --shape llama-3.1-8b --type Q4_K
    python scripts/make_random_gguf.py small.gguf --shape gemma-3-1b --layers 6 --vocab 259 --ctx 4096
"""

import argparse
import sys
import time
from pathlib import Path

from capkv_edge.bench.random_gguf.blocks import TYPES
from capkv_edge.bench.random_gguf.shapes import SHAPES
from capkv_edge.bench.random_gguf.writer import N_BYTES_VOCAB, matrices, override, write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", help="the file to write")
    parser.add_argument("--shape", default="llama-3.2-1b", help="a name from --list")
    parser.add_argument("--type", default="Q4_0", help=", ".join(TYPES))
    parser.add_argument("--ctx", type=int, help="context length that the file says it was trained for")
    parser.add_argument("--layers", type=int, help="number of layers, instead of the shape's")
    parser.add_argument("--vocab", type=int, help=f"size of the vocabulary, at least {N_BYTES_VOCAB}")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--list", action="store_true", help="print the shapes and exit")
    args = parser.parse_args()
    if args.list:
        for s in SHAPES.values():
            kv = 2 * s.n_layer * s.n_head_kv * s.d * 2 / 1024
            sizes = f"{s.n_layer:>3} x {s.n_embd:<5} heads {s.n_head:>2}/{s.n_head_kv:<2} x {s.d:<4} ctx {s.n_ctx:<7}"
            print(f"{s.name:16} {s.arch:8} {sizes} {kv:6.1f} KiB of K and V per token in f16")
        return 0
    if args.out is None:
        parser.error("name the file to write (or --list)")
    if args.shape not in SHAPES:
        parser.error(f"--shape {args.shape}: allowed are {', '.join(SHAPES)}")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: allowed is 0 or more")
    started = time.perf_counter()
    try:
        shape = override(SHAPES[args.shape], args.layers, args.vocab, args.ctx)
        write(args.out, shape, args.type, args.seed)
    except (ValueError, OSError) as err:
        parser.error(str(err))
    n = sum(rows * columns for (rows, columns), _ in matrices(shape).values())
    size = Path(args.out).stat().st_size
    print(f"{args.out}: {n / 1e9:.2f} B weights, {size / 2**30:.2f} GiB, {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
