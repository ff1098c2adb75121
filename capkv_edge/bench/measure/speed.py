"""Speed and memory of setups at depths, with llama-bench's tests: "pp512 @ d4096" reads 512 tokens after 4,096 others were read,
"tg128 @ d4096" decodes 128 tokens there, one by one. The depth is filled by reading it through the setup, so that a budget has
evicted what it would have evicted by then; how often it is read, and what a full cache does instead, speed_worker.py says.

A case is a setup at a depth. Each is measured in a process of its own. At a depth all setups take their turn before the next
depth, in an order that is drawn anew, and all of that is repeated in rounds: so other load on the machine, and what heats up or
was read before, comes to all setups alike, and a setup is compared with the full cache of the same round. Flash attention is on.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from ... import crashes, models
from ..run.provenance import ORIGIN
from ..run.setups import N_BATCH_MAX, Setup
from ..run.stream import STEPS, TIMES
from .speed_worker import DOCS

_ROOT = Path(__file__).resolve().parents[3]  # the worker runs there, so that it imports this package and no other
N_GEN_MIN = 128  #: tokens that a test decodes at least, unless their number is given
_GRACE_S = 120  # for loading, beyond the time limit of a case


def with_batch(setup: Setup, n_batch: int | None) -> Setup:
    """The setup with a headroom of n_batch, unless its headroom is larger already or is given in its name."""
    if n_batch is None or setup.policy is None or isinstance(setup.budget, str) or n_batch <= setup.n_batch:
        return setup
    if "headroom" in dict(setup.options):
        return setup
    return replace(setup, options=(*setup.options, ("headroom", str(n_batch))))


@dataclass
class Plan:
    """What to measure. Depths are in tokens."""

    setups: list  #: of Setup
    depths: list
    n_prompt: int = 512  #: 0: not measured
    n_gen: int | None = None  #: 0: not measured; None: the largest headroom, so that each test has its share of evictions
    rounds: int = 5
    n_batch: int | None = None  #: None: each setup's own; else headrooms grow to it, and the names say so
    n_threads: int | None = None
    n_gpu_layers: int | None = None  #: as Engine's
    text: str = DOCS  #: "python-docs", "random" (tokens), or a text file
    limit_s: float | None = None  #: seconds for each case, without loading
    seed: int = 1  #: of random tokens, and of the order in which the setups take their turns
    reads_all: bool = False  #: a depth is read in each round from its first token on, so that each gives the rate of it (fill_ts)

    def __post_init__(self):
        self.setups = list(dict.fromkeys(with_batch(setup, self.n_batch) for setup in self.setups))
        self.depths = sorted(set(self.depths))
        if self.n_gen is None:
            rooms = [N_BATCH_MAX if isinstance(one.budget, str) else one.n_batch for one in self.setups if one.policy]
            self.n_gen = max([N_GEN_MIN, *rooms])

    def turns(self, i_round: int, depth: int) -> list:
        """The setups in the order of a round at a depth."""
        return random.Random(f"{self.seed} {i_round} {depth}").sample(self.setups, len(self.setups))

    @property
    def sizes(self) -> dict:
        """Tokens of each test."""
        return {name: n for name, n in (("pp", self.n_prompt), ("tg", self.n_gen)) if n}

    def check(self) -> None:
        """Raises ValueError for what cannot be measured."""
        for name, value, least in (
            *(("depth", depth, 0) for depth in self.depths),
            *(("n_prompt", self.n_prompt, 0), ("n_gen", self.n_gen, 0), ("rounds", self.rounds, 1)),
            *((("n_batch", self.n_batch, 1),) if self.n_batch is not None else ()),
        ):
            if not least <= value < 2**31:
                raise ValueError(f"{name} = {value}: allowed is {least} or more")
        if not self.sizes:
            raise ValueError("n_prompt = 0, n_gen = 0: one of them has to be above 0")
        if self.limit_s is not None and not self.limit_s > 0:
            raise ValueError(f"limit = {self.limit_s}: allowed is a number of seconds above 0")
        if not self.setups or not self.depths:
            raise ValueError("no setup or no depth to measure")


def name_of(test: str, n: int, depth: int) -> str:
    """A test's name as llama-bench writes it: "pp512", "tg128 @ d4096"."""
    return f"{test}{n}" + (f" @ d{depth}" if depth else "")


def _ask(job: dict, timeout: float | None = None) -> dict:
    """What the worker prints for a job; where it failed, a dict with "error"."""
    command = [sys.executable, "-m", f"{__package__}.speed_worker"]
    try:
        run = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, cwd=_ROOT, timeout=timeout)
    except subprocess.TimeoutExpired:
        return dict(error=f"stopped: it did not end within {timeout:g} s", over=True)
    try:
        return json.loads(run.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (run.stderr.strip().splitlines() or ["without a word"])[-1]
        if said := crashes.describe(command, run.returncode):
            more = "out of memory?" if crashes.signal_of(run.returncode) == "SIGKILL" else crashes.MORE
            return dict(error=f"{said}: {last} ({more})")
        return dict(error=f"the process ended with {run.returncode}: {last}")


def _figures(found: dict, test: str, room: int | None) -> dict:
    """The figures of one test in one round. room: tokens that fit in the cache after an eviction, before the next one."""
    part, fill = found[test], found["fill"]
    rate = part["n"] / part["seconds"]
    evict_s, n_evictions = (part[name] + fill[name] for name in ("evict_s", "n_evictions"))
    out = dict(avg_ts=rate, stddev_ts=0.0, samples_ts=[rate], median_ts=rate, error=None)
    out |= dict(evict_share=part["evict_s"] / part["seconds"], n_evictions=part["n_evictions"])
    for name in ("evict", *STEPS):
        out[f"{name}_ms"] = 1e3 * (part[f"{name}_s"] + fill[f"{name}_s"]) / n_evictions if evict_s else None
    # the rate in the long run, since by chance a short test has one eviction more or less
    if evict_s and room:
        out["amortized_ts"] = 1 / ((part["seconds"] - part["evict_s"]) / part["n"] + evict_s / n_evictions / room)
    return out


def _memory(found: dict) -> dict:
    fill = found.get("fill")
    out = dict(bytes_peak=found.get("peak"), bytes_device=found.get("device"), **found.get("memory", {}))
    for name in ("n_evictions", *TIMES):
        out.pop(name, None)  # these count the fill and both tests together
    if fill and fill["n"]:
        out |= dict(fill_ts=fill["n"] / fill["seconds"], fill_evict_share=fill["evict_s"] / fill["seconds"])
        out |= dict(fill_n_evictions=fill["n_evictions"])
    return out


class _Cases:
    """The cases of a plan on one model, and at which depth each setup is known to take too long."""

    def __init__(self, model, plan: Plan, store, states):
        self.plan, self.store = plan, store
        path = models.resolve(model)
        models.check_file(path)
        names = [setup.name for setup in plan.setups]
        self.job = dict(model=str(Path(path).absolute()), n_threads=plan.n_threads, n_gpu_layers=plan.n_gpu_layers)
        self.job |= dict(sizes=plan.sizes, n_batch=plan.n_batch, text=plan.text, seed=plan.seed, limit_s=plan.limit_s)
        self.job |= dict(states=states)
        if plan.text != DOCS and os.path.exists(plan.text):
            self.job["text"] = str(Path(plan.text).absolute())
        found = _ask(dict(self.job, what="describe", setups=names, depths=plan.depths))
        if "error" in found:
            raise ValueError(found["error"])
        self.common, self.known, self.cache_device = found["common"], found["cases"], found["cache_device"]
        self.too_deep = {}
        for row in store.rows("speed"):
            same = all(row.get(name) == self.common[name] for name in ("model_hash", *(() if store.keeps_old else ORIGIN)))
            if same and row.get("over_limit") and plan.limit_s and row["limit_s"] >= plan.limit_s:
                self._note(row["setup"], row["n_depth"])

    def _note(self, name: str, depth: int) -> None:
        self.too_deep[name] = min(depth, self.too_deep.get(name, depth))

    def rows(self, setup: Setup, depth: int, i_round: int) -> dict:
        """{test: row}, the rows without figures."""
        known = self.known[f"{setup.name} {depth}"]
        n_ctx = depth + max(self.plan.sizes.values())
        common = dict(self.common, **setup.fields, kind="speed", round=i_round, flash_attn=True, n_ctx=n_ctx)
        common |= {name: known.get(name) for name in ("budget", "n_batch", "n_ubatch")}
        common |= dict(n_depth=depth, seed=self.plan.seed, text=self.plan.text, limit_s=self.plan.limit_s)
        common["n_threads"] = setup.n_threads or common["n_threads"]
        out = {}
        for test, n in self.plan.sizes.items():
            sizes = dict(n_prompt=n if test == "pp" else 0, n_gen=n if test == "tg" else 0)
            out[test] = {**common, "test": name_of(test, n, depth), **sizes}
        return out

    def measure(self, setup: Setup, depth: int, rows: dict) -> list:
        """The rows with their figures, or with an `error` that says why there are none."""
        known, limit = self.known[f"{setup.name} {depth}"], self.plan.limit_s
        found = dict(error=known["error"]) if "error" in known else None
        if found is None and depth >= self.too_deep.get(setup.name, depth + 1):
            found = dict(over=f"not tried, since depth {self.too_deep[setup.name]} took too long")
        if found is None:
            job = dict(self.job, what="measure", setup=setup.name, depth=depth, n_batch=known["n_batch"])
            found = _ask(job, limit and 2 * limit + _GRACE_S)
            if "over" in found:
                self._note(setup.name, depth)
        memory = found.get("memory")
        room = memory["n_cells"] - known["budget"] if memory and setup.on else None
        now = dict(date=datetime.now(timezone.utc).isoformat(timespec="seconds"), **_memory(found))
        out = []
        for test, row in rows.items():
            if test in found:
                figures = _figures(found, test, room)
            else:
                over = f"over the time limit of {limit:g} s: {found['over']}" if limit and "over" in found else None
                figures = dict(avg_ts=None, stddev_ts=None, samples_ts=[], median_ts=None)
                figures |= dict(error=found.get("error") or over, over_limit="over" in found)
            out.append({**row, **now, **figures})
        return out


def run(
    model, plan: Plan, store, progress=lambda done, total, label: None, say_device=lambda cache_device, n_threads: None
):
    """Measure what is not in the store yet and yield its rows, one per (setup, depth, test, round).

    Args:
        model: path of a GGUF file, or "demo".
        plan: what to measure.
        store: a rows.Store.
        progress: called with (cases done, all cases, what is being measured).
        say_device: called once, before the first case, with the devices that hold the cache and the number of CPU threads.

    A case that fails or is over the time limit gives rows whose avg_ts is None and whose `error` says why. A setup that was
    over the limit is not tried again, neither at that depth nor at larger ones.

    Raises:
        ValueError: a plan out of range, or a model that cannot be loaded.
        OSError: a model file that is missing or may not be read.
    """
    plan.check()
    with tempfile.TemporaryDirectory() as states:
        cases = _Cases(model, plan, store, None if plan.reads_all else states)
        say_device(cases.cache_device, cases.common["n_threads"])
        total, done = plan.rounds * len(plan.depths) * len(plan.setups), 0
        for i_round in range(1, plan.rounds + 1):
            for depth in plan.depths:
                for setup in plan.turns(i_round, depth):
                    progress(done, total, f"round {i_round} of {plan.rounds}, depth {depth}: {setup.name}")
                    done += 1
                    rows = cases.rows(setup, depth, i_round)
                    if all(store.done(row) for row in rows.values()):
                        continue
                    for row in cases.measure(setup, depth, rows):
                        if not store.done(row):
                            store.add(row)
                            yield row
        progress(total, total, "")
