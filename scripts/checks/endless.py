"""Read a million tokens in a cache of fixed size, and see whether the text stays as easy to predict as at its beginning.

    python scripts/checks/endless.py --budget 512 1024 --f16        hours on a laptop; a stopped run goes on where it was
    python scripts/checks/endless.py --budget 128 --tokens 20000    minutes
    python scripts/checks/endless.py --budget --setup capkv@512:q8_0 --gpu-layers -1     one setup, on a GPU
    python scripts/checks/endless.py --document docs/results.md     write the table of all rows between its marks, and end

Each tenth of the text consists of the same documents in another order, so that its mean NLL (negative log likelihood of each token
given those before it) depends on the length of the text alone, and not on what it is about. Before a document comes again, at least
a twentieth of the text is read. Beside each budget stands llama.cpp's context shift in as many cells.

A text stays flat if the mean NLL of each tenth from the third on is within 3 % of that of the second. The exit status is 1 if a budget
does not. The last line of the output is one JSON object.
"""

import argparse
import ctypes
import json
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from capkv_edge import models
from capkv_edge.bench.report.results import write_part
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.provenance import machine
from capkv_edge.bench.run.setups import SHIFT, Setup
from capkv_edge.bench.tasks.corpora import documents

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "helpers"))

from memory import memory
from plain_model import write_f16

ALLOWED = 0.03
N_TENTHS, N_PARTS = 10, 100  # of a text; there is a row for each part
N_DOC = 2000  # tokens of a document, at most
N_ROWS = 4  # rows of logits that are treated at once, so that they stay in a core's cache
BEGIN, END = "<!-- endless: begin -->", "<!-- endless: end -->"


def make_text(engine, corpora: list, n_tokens: int, seed: int) -> np.ndarray:
    """int32 [n_tokens]: N_TENTHS times the same documents, as many tokens of each corpus.

    The first half of them comes in a new order in the first half of each tenth, the second half in the second.
    """
    n_each = n_tokens // N_TENTHS // len(corpora)
    n_docs = 2 * -(-n_each // (2 * N_DOC))
    docs = [doc.tokens for name in corpora for doc in documents(engine, name, n_docs, n_each // n_docs)]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(docs))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    return np.concatenate([docs[i] for _ in range(N_TENTHS) for half in halves for i in rng.permutation(half)])


def nll(rows: np.ndarray, tokens: np.ndarray, map=map) -> np.ndarray:
    """Negative log likelihoods [n] in nats of tokens [n] under rows of logits float32 [n, n_vocab]. map: that of a pool of threads."""
    parts = [slice(i, i + N_ROWS) for i in range(0, len(rows), N_ROWS)]
    return np.concatenate(list(map(partial(_log_sums, rows), parts))) - rows[np.arange(len(tokens)), tokens]


def _log_sums(rows: np.ndarray, part: slice) -> np.ndarray:
    most = rows[part].max(axis=1)
    work = rows[part] - most[:, None]
    return np.log(np.exp(work, out=work).sum(axis=1, dtype=np.float64)) + most


class Run:
    """One setup that reads the text. After each part its row is in the file of rows, and its state beside it.

    What tells rows of the same measurement from others is in `same`: a file may hold those of many.
    """

    def __init__(self, engine, setup: Setup, text: np.ndarray, same: dict, path: Path):
        self.engine, self.setup, self.text, self.path = engine, setup, text, path
        self.same = {"setup": setup.name, **same}
        name = "".join(char if char.isalnum() else "-" for char in setup.name)
        self.state = path.with_name(f"{path.stem}-{name}.state")
        self.pool = ThreadPoolExecutor(engine.n_threads)
        self.ends = np.linspace(0, len(text), N_PARTS + 1).astype(int)[1:]

    def rows(self) -> list:
        """The rows that are there, in order."""
        return rows_like(self.path, self.same)

    def go_on(self) -> None:
        """Read the parts that have no row yet."""
        done = self.rows()
        if len(done) == N_PARTS:
            return
        with self.engine.open(self.setup, len(self.text)) as stream:
            if done:
                saved = pickle.loads(self.state.read_bytes()) if self.state.exists() else None
                if saved is None or saved[0] != (self.same, len(done)):
                    sys.exit(f"{self.setup.name}: there are rows in {self.path}, but no state to go on from: remove them first")
                here, data = saved[1]
                stream.back((here, (ctypes.c_uint8 * len(data)).from_buffer_copy(data)))
            for part in range(len(done), N_PARTS):
                self._read(stream, part)
        self.state.unlink(missing_ok=True)

    def _read(self, stream, part: int) -> None:
        start, end, sums = stream.n_tokens, int(self.ends[part]), [0.0, 0]
        n_target = min(end, len(self.text) - 1) - start  # the last token of the text has no next one

        def use(wanted, rows):
            found = nll(rows, self.text[wanted + 1], self.pool.map)
            sums[0], sums[1] = sums[0] + float(found.sum()), sums[1] + len(found)

        t_start = time.perf_counter()
        stream.read(self.text[start:end], np.arange(start, start + n_target), use)
        seconds = time.perf_counter() - t_start
        held = stream.memory()
        row = {
            **self.same,
            "part": part,
            "n_tokens": stream.n_tokens,
            "nll": round(sums[0] / sums[1], 5),
            "n_cells": held["n_cells"],
            "n_evictions": held["n_evictions"],
            "bytes_kv": held["bytes_kv"],
            "resident": memory(),
            "tokens_per_second": round((end - start) / seconds, 1),
        }
        aside = self.state.with_suffix(".aside")
        aside.write_bytes(pickle.dumps(((self.same, part + 1), _plain(stream.mark()))))
        aside.replace(self.state)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if (part + 1) % (N_PARTS // N_TENTHS) == 0:
            print(
                f"{self.setup.name:<16} {row['n_tokens']:>10,} tokens  NLL {tenths(self.rows())[-1]:.3f}  {row['n_cells']:>6,} cells  "
                f"{row['resident'] / 2**20:7.1f} MiB resident  {row['tokens_per_second']:6.0f} tokens/s",
                flush=True,
            )


def _plain(mark: tuple) -> tuple:
    return mark[0], bytes(mark[1])


def rows_like(path: Path, same: dict) -> list:
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if all(row.get(name) == value for name, value in same.items())]


# --- what the rows say ---


def tenths(rows: list) -> list:
    """Mean NLL of each tenth that is complete."""
    n = N_PARTS // N_TENTHS
    return [float(np.mean([row["nll"] for row in rows[i : i + n]])) for i in range(0, len(rows) - n + 1, n)]


def departure(means: list) -> float:
    """The largest difference of a tenth from the second, as a share of it; NaN without a third."""
    return max((abs(mean / means[1] - 1) for mean in means[2:]), default=float("nan"))


def verdict(name: str, rows: list) -> str:
    """One sentence on a setup."""
    means = tenths(rows)
    if len(means) < N_TENTHS:
        return f"{name}: {len(means)} of {N_TENTHS} tenths are read"
    off = departure(means)
    memories = [row["resident"] for row in rows[N_PARTS // N_TENTHS :]]
    growth = (memories[-1] - memories[0]) / (rows[-1]["n_tokens"] - rows[N_PARTS // N_TENTHS]["n_tokens"])
    said = "flat" if off <= ALLOWED else "not flat"
    return (
        f"{name}: {said}: from the third tenth on the mean NLL is within {off:.1%} of the second's, {means[1]:.3f} "
        f"({ALLOWED:.0%} allowed); resident memory grew by {growth:.1f} bytes a token after the first tenth"
    )


def table(by_setup: dict) -> str:
    """Mean NLL by tenth: a column for each setup."""
    means = {name: tenths(rows) for name, rows in by_setup.items()}
    first = next(iter(by_setup.values()))
    head = f"| tokens up to | {' | '.join(f'`{name}`' for name in means)} |\n|{'---|' * (len(means) + 1)}\n"
    lines = ""
    for i in range(max(map(len, means.values()), default=0)):
        end = first[(i + 1) * N_PARTS // N_TENTHS - 1]["n_tokens"] if len(first) >= (i + 1) * N_PARTS // N_TENTHS else 0
        cells = [f"{found[i]:.3f}" if i < len(found) else "" for found in means.values()]
        lines += f"| {end:,} | {' | '.join(cells)} |\n"
    return head + lines


def document_part(path: Path) -> str:
    """The table and a sentence for each setup, of the measurements in a file of rows."""
    groups = {}
    for row in rows_like(path, {}):
        key = tuple(row[name] for name in ("model", "device", "text", "n_text", "seed"))
        groups.setdefault(key, {}).setdefault(row["setup"], []).append(row)
    parts = []
    for (model, device, text, n_text, _), by_setup in groups.items():
        said = "".join(f"- {verdict(f'`{name}`', rows)}.\n" for name, rows in by_setup.items())
        parts.append(f"Model {model} on {device}, {n_text:,} tokens of {text}; mean NLL in nats.\n\n{table(by_setup)}\n{said}")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=models.DEMO, help="a GGUF file, or demo (default: %(default)s)")
    parser.add_argument("--f16", action="store_true", help="read with a copy of the weights in f16: faster where its type is slow")
    parser.add_argument("--budget", nargs="*", default=["512"], help="budgets in tokens, or none (default: 512)")
    parser.add_argument("--setup", nargs="+", default=[], help="other setups of capkv-bench, such as capkv@512,sink=0")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="length of the text (default: %(default)s)")
    parser.add_argument("--text", nargs="+", default=["essays", "python-docs"], help="corpora, files or folders (default: both corpora)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the documents (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: the cores that it may use)")
    parser.add_argument("--gpu-layers", type=int, default=None, help="layers on the GPU, -1: all (default: all in a build with a GPU)")
    parser.add_argument("--rows", type=Path, default=ROOT / "build" / "endless.jsonl", help="where the rows are kept")
    parser.add_argument("--document", type=Path, help="only write the table of the rows into this file")
    args = parser.parse_args()

    if args.document:
        write_part(args.document, document_part(args.rows), BEGIN, END)
        return 0

    setups = [Setup.parse(f"{policy}@{budget}") for budget in args.budget for policy in ("capkv", SHIFT)]
    setups += [Setup.parse(name) for name in args.setup]
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    path = models.resolve(args.model)
    if args.f16:
        copy = args.rows.with_name(f"{Path(path).stem}-f16.gguf")
        path = copy if copy.exists() else write_f16(path, copy)

    with Engine(path, n_threads=args.threads, n_gpu_layers=args.gpu_layers) as engine:
        text = make_text(engine, args.text, args.tokens, args.seed)
        same = dict(model=Path(path).name, hash=engine.hash, device=machine(engine))
        same |= dict(text=" and ".join(args.text), n_text=len(text), seed=args.seed)
        runs = [Run(engine, setup, text, same, args.rows) for setup in setups]
        for run in runs:
            run.go_on()

    found = {run.setup.name: run.rows() for run in runs}
    print("\n" + table(found))
    for name, rows in found.items():
        print(verdict(name, rows))
    flat = {run.setup.name: departure(tenths(found[run.setup.name])) <= ALLOWED for run in runs}
    print(json.dumps({**same, "nll": {name: tenths(rows) for name, rows in found.items()}, "flat": flat}))
    return 0 if all(flat[run.setup.name] for run in runs if run.setup.on) else 1


if __name__ == "__main__":
    sys.exit(main())
