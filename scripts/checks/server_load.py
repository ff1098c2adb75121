"""Load a llama-server with a budget: 200 requests over 8 connections, a third of them cut, while slots are saved, restored and erased.

    python scripts/checks/server_load.py
    python scripts/checks/server_load.py --rounds 60
    CAPKV_SERVER=build/sanitize/bin/llama-server python scripts/checks/server_load.py --memory 0     with AddressSanitizer

The model is a tiny llama with random weights. Each answer is checked: the number of its tokens, what was reused, what the cache holds.
After each round every slot has to be free and has to answer (tests/helpers/slot_load.py), and at the end the server has to end by
itself. The second half of the rounds may take no more memory than the first, by --memory percent: with 6 rounds of 200 that shows a leak
of 2.5 KB a request. The heap itself still grows a little then: it levels off after some thousand requests, 10 % above the first round.
The first fault ends the run with exit status 1. The last line of the output is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "helpers"))

import llama_server
import tiny_models
from slot_load import Broken, Load, resident


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="of each round (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--slots", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--budget", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--memory", type=float, default=5, metavar="PERCENT", help="most growth; 0: do not look (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    return parser.parse_args()


def main() -> int:
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_models.write_llama(folder / "tiny.gguf")
        # --cache-ram: full within the first round, so that it does not look like a leak
        server = llama_server.Server(
            folder / "tiny.gguf", folder, "--kv-budget", args.budget, "-np", args.slots, "-b", 64, "-ub", 64, "--cache-ram", 1,
            "--slot-save-path", folder, env={"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        fault, rounds = "", []
        try:
            for i in range(args.rounds):
                start = time.monotonic()
                done = Load(server, args.requests, args.connections, seed=args.seed + i).run()
                rounds.append(done | {"seconds": round(time.monotonic() - start, 1), "resident": resident(server.process.pid)})
                print(f"round {i + 1}: {rounds[-1]}", flush=True)
        except (Broken, OSError, RuntimeError) as error:
            fault = str(error)
        status = server.stop()
        if not fault and status != 0:
            fault = f"the server ended with {status}: {server.log()[-2000:]}"
    sizes = [done["resident"] for done in rounds]
    half = len(sizes) // 2
    growth = (max(sizes[half:]) / max(sizes[:half]) - 1) * 100 if half else 0
    if not fault and args.memory and growth > args.memory:
        fault = f"resident memory grew by {growth:.1f} % after the first half of the rounds"
    print(json.dumps({"rounds": rounds, "growth_percent": round(growth, 2), "fault": fault}))
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
