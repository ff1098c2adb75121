"""Compare capkv-bench's fidelity with llama-perplexity --kl-divergence, on the same model, text, budget and batches.

    make tools && python scripts/checks/perplexity.py [--setup capkv@256] [--ctx 1024] [--chunks 4] [--model demo]

llama-perplexity stores the base's log probabilities in 16 bits, over a range of 16 nats below the likeliest token, and leaves
tokens less likely than e^-16 out of its sums. So our figures are computed twice: from the base in full precision, and from the
base rounded and cut like that file. The second ones have to equal llama-perplexity's to the digits that it prints; the
difference between ours is the error of the file. Exit status 1 if they disagree. The last line of the output is one JSON object.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from capkv_edge import crashes

ROOT = Path(__file__).resolve().parents[2]
RANGE = 16  # nats
ALLOWED = 1e-5  # difference; llama-perplexity prints five or six digits

#: our figure: (label in llama-perplexity's output, factor to our unit)
LABELS = {
    "kl_mean": ("Mean    KLD", 1),
    "kl_median": ("Median  KLD", 1),
    "kl_p99": ("99.0%   KLD", 1),
    "rms_dp": ("RMS Δp", 0.01),
    "same_top": ("Same top p", 0.01),
}


def as_stored(base: np.ndarray) -> np.ndarray:
    """Log probabilities [n, n_vocab] as llama-perplexity reads them from its file; -1e4 where its sums leave a token out."""
    high = base.max(axis=1, keepdims=True)
    low = np.maximum(base.min(axis=1, keepdims=True), high - RANGE)
    scale = (high - low) / 65535
    stored = low + scale * np.rint(np.maximum(base - low, 0) / scale)
    return np.where(stored > -RANGE, stored, -1e4).astype(np.float32)


def ours(args, text: str) -> tuple:
    from capkv_edge.bench.measure import divergence, fidelity
    from capkv_edge.bench.run.engine import Engine
    from capkv_edge.bench.run.setups import Setup
    from capkv_edge.bench.tasks.corpora import Document

    with Engine(args.model, n_threads=args.threads) as engine:
        setup = Setup.parse(args.setup)
        head = [] if engine.bos is None else [engine.bos]
        tokens = np.array(head + engine.tokenize(text), dtype=np.int32)[: args.ctx * args.chunks].reshape(args.chunks, args.ctx)
        tokens[:, : len(head)] = head  # BOS replaces the first token of each chunk
        found = []
        for i, chunk in enumerate(tokens):
            document = Document("file", str(i), chunk, "")
            plan = fidelity.Plan([document], [setup], [args.ctx])
            if plan.window(setup, args.ctx)[0] != args.ctx // 2:
                raise ValueError(
                    f"--ctx = {args.ctx}: allowed is at least twice the cells of {args.setup}, {2 * setup.n_cells}"
                )
            base = fidelity.Base(engine, plan, document)
            found.append([fidelity.measure(engine, plan, document, setup, base)[0][args.ctx]])
            for at in range(len(base.rows)):
                base.rows[at : at + 1] = as_stored(base.rows[at : at + 1])
            found[-1].append(fidelity.measure(engine, plan, document, setup, base)[0][args.ctx])
            base.close()
        figures = (divergence.figures({k: np.concatenate([one[i][k] for one in found]) for k in found[0][i]}) for i in (0, 1))
        exact, stored = ({name: one[name] for name in LABELS} for one in figures)
        return exact, stored, setup, engine.path


def theirs(args, text: str, setup, model: Path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file, base = Path(folder) / "text.txt", Path(folder) / "base.kld"
        file.write_text(text, encoding="utf-8")
        command = [args.tool, "-m", model, "-f", file, "-c", args.ctx, "--chunks", args.chunks, "-fa", "on"]
        command += ["-t", args.threads, "--kl-divergence-base", base]
        run([*command, "-b", 512, "-ub", 512])
        command += ["--kl-divergence", "-b", setup.n_batch, "-ub", setup.n_batch]
        command += ["--cache-type-k", setup.type, "--cache-type-v", setup.type]  # a budget's own default is q8_0
        for name in ("policy", "budget", "headroom"):
            command += [f"--kv-{name}", getattr(setup.config(), name)]
        for name, value in setup.options:
            command += [f"--kv-{name}", value]
        out = run(command)
    figures = {}
    for name, (label, factor) in LABELS.items():
        found = re.search(rf"{re.escape(label)}\s*:\s*([-\d.]+)", out)
        if not found:
            raise ValueError(f"llama-perplexity printed no {label!r}")
        figures[name] = float(found[1]) * factor
    return figures


def run(command: list) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}\n{crashes.explain(command, done.returncode)}")
    return done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--setup", default="capkv@256")
    parser.add_argument("--text", default="python-docs", help="a corpus or a file")
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tool", default=str(ROOT / "build/tools/bin/llama-perplexity"))
    args = parser.parse_args()

    from capkv_edge.bench.tasks.corpora import load

    text = "\n\n".join(text for _, text in load(args.text))[: 8 * args.ctx * args.chunks]
    try:
        exact, stored, setup, model = ours(args, text)
    except ValueError as err:
        parser.error(str(err))
    other = theirs(args, text, setup, model)
    print(f"{'':10} {'as it is':>12} {'in 16 bits':>12} {'perplexity':>12} {'difference':>12}")
    failed = False
    for name in LABELS:
        difference = abs(stored[name] - other[name])
        failed |= difference > ALLOWED
        print(f"{name:10} {exact[name]:12.6f} {stored[name]:12.6f} {other[name]:12.6f} {difference:12.6f}")
    print("they agree" if not failed else "they do NOT agree")
    print(json.dumps(dict(exact=exact, stored=stored, llama_perplexity=other, agrees=not failed, **vars(args))))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
