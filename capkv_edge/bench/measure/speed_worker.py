"""One case of a speed measurement, in a process of its own so that the peak of its memory is not another case's. speed.py starts
it; the job is JSON on stdin, and the last line of stdout is the result in JSON.

A case is a setup at a depth: the depth is filled; then n_prompt tokens are read, and from the same state n_gen tokens are decoded
one by one, as with llama-bench's -p, -n and -d.

A depth is filled by reading it, once: later rounds, and larger depths, go on from the state that was saved then. A cache without a
policy holds the first N_COPIED tokens again and again at a depth that is a multiple of them: each token costs it as much as any
other, and in q8_0 a full cache would read for half an hour what a budget reads in two minutes.
"""

import ctypes
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from ..._upstream import library
from ..run.engine import Engine
from ..run.provenance import engine_fields
from ..run.setups import Setup
from ..run.stream import STEPS
from ..tasks import corpora

RANDOM, DOCS = "random", "python-docs"
N_COPIED = 4096
_NOTHING = dict(n=0, seconds=0.0, n_evictions=0, **{f"{name}_s": 0.0 for name in ("evict", *STEPS)})


class OverLimit(Exception):
    """The time of the case is over; the message says what was done until then."""


def peak_memory() -> int | None:
    """The peak of this process's resident memory in bytes; None where the system does not tell.

    Linux's VmHWM comes first, since ru_maxrss starts with the memory that the parent had when it started this process."""
    status = Path("/proc/self/status")
    if status.exists():
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if found:
            return int(found[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_on_devices() -> int | None:
    """Free memory of all GPUs in bytes; None where there is no GPU."""
    lib = library()
    try:
        lib.ggml_backend_dev_get.restype = ctypes.c_void_p
        lib.ggml_backend_dev_count.restype = ctypes.c_size_t
        sizes = []
        for i in range(lib.ggml_backend_dev_count()):
            device = ctypes.c_void_p(lib.ggml_backend_dev_get(ctypes.c_size_t(i)))
            if lib.ggml_backend_dev_type(device) in (1, 2):  # GPU, integrated GPU
                free, total = ctypes.c_size_t(), ctypes.c_size_t()
                lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
                sizes.append(free.value)
    except AttributeError:  # on some systems libllama does not pass on ggml's functions
        return None
    return sum(sizes) if sizes else None


def tokens_of(engine, text: str, n: int, seed: int) -> np.ndarray:
    """Tokens int32 [n] of a built-in text or a file, which starts again where it ends; text "random": random tokens."""
    if text == RANDOM:
        return np.random.default_rng(seed).integers(0, engine.n_vocab, n, dtype=np.int32)
    if text == DOCS:
        ((_, words),) = corpora.load(DOCS)
    else:
        words = Path(text).expanduser().read_text(encoding="utf-8")
    # no more text than is needed: a token is about 2 to 5 characters, or 1 where the vocabulary is bytes
    found = engine.tokenize((words * (8 * n // max(len(words), 1) + 1))[: 8 * n])
    if not found:
        raise ValueError(f"text = {text}: there is no text in it")
    head = [] if engine.bos is None else [engine.bos]
    return np.resize(np.array(head + found, dtype=np.int32), n)


class Timed:
    """A stream whose reading is timed. deadline: of time.perf_counter(), or None."""

    def __init__(self, stream, tokens, deadline: float | None):
        self.stream, self.tokens, self.deadline = stream, tokens, deadline

    def read(self, first: int, n: int, step: int, what: str) -> dict:
        """Read n tokens from `first` on, `step` at a time. Returns seconds, those of them that evictions took, and how many these were.

        Raises:
            OverLimit: the deadline has passed.
        """
        stream, before = self.stream, self.stream.memory()
        started = time.perf_counter()
        for i in range(first, first + n, step):
            if self.deadline is not None and time.perf_counter() > self.deadline:
                raise OverLimit(f"{i - first} of {n} tokens {what}")
            stream.read(self.tokens[i : min(i + step, first + n)])
            stream.last()  # waits until the device is done
        seconds, after = time.perf_counter() - started, stream.memory()
        return dict(
            n=n,
            seconds=seconds,
            **{f"{name}_s": (after[f"t_{name}_us"] - before[f"t_{name}_us"]) / 1e6 for name in ("evict", *STEPS)},
            n_evictions=after["n_evictions"] - before["n_evictions"],
        )


class Fill:
    """Brings a stream to a depth. states: a folder for the states of this plan, or None: everything is read."""

    def __init__(self, timed: Timed, states):
        self.timed, self.stream = timed, timed.stream
        self.states = states and Path(states) / hashlib.blake2b(self.stream.setup.name.encode(), digest_size=8).hexdigest()

    def to(self, depth: int) -> dict:
        """What Timed.read() gives of what had to be read, all of it zero where nothing was."""
        if self.states and copies(self.stream.setup, depth):
            self._read(N_COPIED)
            try:
                self.stream.repeat(self.states / str(N_COPIED), depth // N_COPIED)
                return _NOTHING
            except RuntimeError:  # a cache that cannot hold two sequences in one, as that of a sliding window
                self.stream.clear()
        return self._read(depth)

    def _read(self, depth: int) -> dict:
        if not self.states:
            return self.timed.read(0, depth, self.stream.n_batch, "of the depth read")
        self.states.mkdir(exist_ok=True)
        first = max((n for path in self.states.iterdir() if (n := int(path.name)) <= depth), default=0)
        if first:
            self.stream.load(self.states / str(first))
        if first == depth:
            return _NOTHING
        found = self.timed.read(first, depth - first, self.stream.n_batch, "of the depth read")
        self.stream.save(self.states / str(depth))
        return found


def copies(setup: Setup, depth: int) -> bool:
    """Whether the cache holds copies at the depth."""
    return setup.policy is None and depth > N_COPIED and depth % N_COPIED == 0


def measure(engine, job: dict, free: int | None = None) -> dict:
    """{"fill": ..., "pp": ..., "tg": ..., "memory": ...} of a case. Where its time was over, parts are missing and "over" says how
    far it came. free: what free_on_devices() gave before the model was loaded."""
    setup, depth, sizes = Setup.parse(job["setup"]), job["depth"], job["sizes"]
    tokens = tokens_of(engine, job["text"], depth + max(sizes.values()), job["seed"])
    engine.bytes_per_token("f16"), engine.bytes_per_token(setup.type)  # these open contexts, which is not to be measured
    with engine.open(Setup(), 256, 128) as stream:  # reads the weights from the disk
        stream.read(tokens[:129])
    found = {}
    with engine.open(setup, len(tokens), job["n_batch"], repeats=copies(setup, depth)) as stream:
        if depth < stream.n_batch:  # else the fill does it: the first batches pay for graphs and pages, which is no part of a rate
            for first in (tokens[: min(stream.n_batch, max(sizes.values()))], tokens[:1]):
                stream.clear()
                stream.read(first)
            stream.clear()
        limit = job["limit_s"]
        timed = Timed(stream, tokens, limit and time.perf_counter() + limit)
        try:
            found["fill"] = Fill(timed, job.get("states")).to(depth)
            found["peak"] = peak_memory()  # before mark() copies the cache
            mark = stream.mark() if len(sizes) > 1 else None
            if "pp" in sizes:
                found["pp"] = timed.read(depth, sizes["pp"], stream.n_batch, "read")
            if mark is not None:
                stream.back(mark)
            if "tg" in sizes:
                found["tg"] = timed.read(depth, sizes["tg"], 1, "decoded")
        except OverLimit as over:
            found["over"] = str(over)
        # without a depth, only the tests touch the memory that was allocated
        found["peak"] = peak_memory() if not depth or "peak" not in found else found["peak"]
        found["device"] = None if free is None else free - free_on_devices()
        found["memory"] = stream.memory()
    return found


def describe(engine, job: dict) -> dict:
    """The fields that all rows share, the cache's device, and for each case its batch and budget, or why it cannot be."""
    cases = {}
    for name in job["setups"]:
        setup = Setup.parse(name)
        for depth in job["depths"]:
            n_ctx = depth + max(job["sizes"].values())
            try:
                resolved = setup.for_context(n_ctx, engine.bytes_per_token)
            except ValueError as err:
                cases[f"{name} {depth}"] = dict(error=str(err))
                continue
            n_batch = job["n_batch"] or resolved.n_batch
            if resolved.policy or resolved.options:
                n_batch = min(n_batch, resolved.n_batch)  # no more than the headroom, nor than the name says
            cases[f"{name} {depth}"] = dict(n_batch=n_batch, n_ubatch=min(n_batch, 512), budget=resolved.budget or None)
    return dict(common=engine_fields(engine), cases=cases, cache_device=engine.cache_device)


def main() -> None:
    job = json.load(sys.stdin)
    try:
        free = free_on_devices() if job["n_gpu_layers"] != 0 else None
        with Engine(job["model"], n_threads=job["n_threads"], n_gpu_layers=job["n_gpu_layers"]) as engine:
            found = describe(engine, job) if job["what"] == "describe" else measure(engine, job, free)
    except (ValueError, RuntimeError, OSError, MemoryError) as err:
        found = dict(error=str(err) or type(err).__name__)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
