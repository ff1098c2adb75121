"""Speed and memory of setups at depths, as llama-bench's tests mean them: "pp512 @ d4096" reads 512 tokens behind 4,096 that
were read, "tg128 @ d4096" decodes 128 there, one by one. The depth is filled by reading through the setup, so what a budget has
evicted by then is evicted.

Each setup at each depth is measured in a process of its own; all setups take their turn at a depth before the next one, and
all of that is repeated in rounds, so that what else the machine does hits all alike. Flash attention is on for all of them.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from ... import crashes, models
from .. import terminal
from ..run.rows import KEY_FIELDS
from ..run.setups import Setup
from .speed_worker import DOCS

_ROOT = Path(__file__).resolve().parents[3]  # of the package, so that the worker is of the same one
_GRACE_S = 120  # for loading, beyond the time limit of a cell


def with_batch(setup: Setup, n_batch: int | None) -> Setup:
    """The setup with room for batches of n_batch beyond its budget, unless it has it or says its headroom itself."""
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
    n_gen: int = 128  #: 0: not measured
    rounds: int = 3
    n_batch: int | None = None  #: None: each setup's own; else their headroom grows with it, and their name says so
    n_threads: int | None = None
    n_gpu_layers: int | None = None  #: as Engine's
    text: str = DOCS  #: "python-docs", "random" (tokens), or a text file
    limit_s: float | None = None  #: time for each setup at each depth, loading left out
    seed: int = 1  #: of random tokens

    def __post_init__(self):
        self.setups = list(dict.fromkeys(with_batch(setup, self.n_batch) for setup in self.setups))
        self.depths = sorted(set(self.depths))

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
    """As llama-bench has it: "pp512", "tg128 @ d4096"."""
    return f"{test}{n}" + (f" @ d{depth}" if depth else "")


def _ask(job: dict, timeout: float | None = None) -> dict:
    """What the worker has to say to a job; "error" if it failed."""
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
    """The fields of one test in one round; room: tokens for which one eviction makes room."""
    part, fill = found[test], found["fill"]
    rate = part["n"] / part["seconds"]
    evict_s, n_evictions = (part[name] + fill[name] for name in ("evict_s", "n_evictions"))
    out = dict(avg_ts=rate, stddev_ts=0.0, samples_ts=[rate], median_ts=rate, error=None)
    out |= dict(evict_share=part["evict_s"] / part["seconds"], n_evictions=part["n_evictions"])
    out |= dict(evict_ms=1e3 * evict_s / n_evictions if evict_s else None)
    # what it comes to in the long run: a test may happen to have one eviction more or less
    if evict_s and room:
        out["amortized_ts"] = 1 / ((part["seconds"] - part["evict_s"]) / part["n"] + evict_s / n_evictions / room)
    return out


def _memory(found: dict) -> dict:
    fill = found.get("fill")
    out = dict(bytes_peak=found.get("peak"), bytes_device=found.get("device"), **found.get("memory", {}))
    for name in ("n_evictions", "t_evict_us"):
        out.pop(name, None)  # of the fill and both tests: not of one of them
    if fill and fill["n"]:
        out |= dict(fill_ts=fill["n"] / fill["seconds"], fill_evict_share=fill["evict_s"] / fill["seconds"])
        out |= dict(fill_n_evictions=fill["n_evictions"])
    return out


class _Cells:
    """The cells of a plan on one model, and which of them are known to take too long."""

    def __init__(self, model, plan: Plan, store):
        self.plan, self.store = plan, store
        path = models.resolve(model)
        models.check_file(path)
        names = [setup.name for setup in plan.setups]
        self.job = dict(model=str(Path(path).absolute()), n_threads=plan.n_threads, n_gpu_layers=plan.n_gpu_layers)
        self.job |= dict(sizes=plan.sizes, n_batch=plan.n_batch, text=plan.text, seed=plan.seed, limit_s=plan.limit_s)
        if plan.text != DOCS and os.path.exists(plan.text):
            self.job["text"] = str(Path(plan.text).absolute())
        found = _ask(dict(self.job, what="describe", setups=names, depths=plan.depths))
        if "error" in found:
            raise ValueError(found["error"])
        self.about, self.cells = found["about"], found["cells"]
        terminal.start(found["cache_device"], self.about["n_threads"])
        self.too_deep = {}
        for row in store.rows("speed"):
            same = all(row.get(name) == self.about[name] for name in ("model_hash", "n_threads", "n_gpu_layers"))
            if same and row.get("over_limit") and plan.limit_s and row["limit_s"] >= plan.limit_s:
                self._note(row["setup"], row["n_depth"])

    def _note(self, name: str, depth: int) -> None:
        self.too_deep[name] = min(depth, self.too_deep.get(name, depth))

    def rows(self, setup: Setup, depth: int, i_round: int) -> dict:
        """{test: row} without figures."""
        known = self.cells[f"{setup.name} {depth}"]
        n_ctx = depth + max(self.plan.sizes.values())
        common = dict(setup.fields, kind="speed", budget=known.get("budget"), round=i_round, flash_attn=True, n_ctx=n_ctx)
        common |= dict(n_batch=known.get("n_batch"), n_ubatch=known.get("n_ubatch"), n_depth=depth, seed=self.plan.seed)
        common |= dict(text=self.plan.text, limit_s=self.plan.limit_s, **self.about)
        out = {}
        for test, n in self.plan.sizes.items():
            sizes = dict(n_prompt=n if test == "pp" else 0, n_gen=n if test == "tg" else 0)
            out[test] = {**common, "test": name_of(test, n, depth), **sizes}
        return out

    def measure(self, setup: Setup, depth: int, rows: dict) -> list:
        """The rows with their figures, or with what kept them from being measured."""
        known, limit = self.cells[f"{setup.name} {depth}"], self.plan.limit_s
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


def run(model, plan: Plan, store, progress=lambda done, total, label: None):
    """Measure what is not in the store yet and yield its rows, one per (setup, depth, test, round).

    Args:
        model: path of a GGUF file, or "demo".
        plan: what to measure.
        store: a rows.Store.
        progress: called with (cells done, all cells, what is being measured).

    A cell that is over the time limit, or fails, gives rows whose avg_ts is None and whose `error` says why; a setup that was
    over the limit is not tried again, there or deeper.

    Raises:
        ValueError: a plan that cannot be, or a model that cannot be loaded.
        OSError: a model file that is missing or may not be read.
    """
    plan.check()
    cells = _Cells(model, plan, store)
    total, done = plan.rounds * len(plan.depths) * len(plan.setups), 0
    for i_round in range(1, plan.rounds + 1):
        for depth in plan.depths:
            for setup in plan.setups:
                progress(done, total, f"round {i_round} of {plan.rounds}, depth {depth}: {setup.name}")
                done += 1
                rows = cells.rows(setup, depth, i_round)
                if all(store.done(row) for row in rows.values()):
                    continue
                for row in cells.measure(setup, depth, rows):
                    if not store.done(row):
                        store.add(row)
                        yield row
    progress(total, total, "")


def summary(rows: list) -> list:
    """Rows of the same test in all its rounds as one: all samples with their mean, standard deviation and median, means of the
    other rates and shares, the largest peak; `error` where no round has a figure. In the order in which they first came."""
    names = [name for name in KEY_FIELDS["speed"] if name != "round"]
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return [_merge(group) for group in groups.values()]


def _merge(rows: list) -> dict:
    good = [row for row in rows if row["samples_ts"]]
    out = {**(good or rows)[-1], "n_rounds": len(good), "n_failed": len(rows) - len(good)}
    out.pop("round")
    if not good:
        return out
    samples = [sample for row in good for sample in row["samples_ts"]]
    out |= dict(samples_ts=samples, avg_ts=statistics.fmean(samples), median_ts=statistics.median(samples))
    out |= dict(stddev_ts=statistics.stdev(samples) if len(samples) > 1 else 0.0)
    for name in ("evict_share", "evict_ms", "n_evictions", "amortized_ts", "fill_ts", "fill_evict_share"):
        values = [row[name] for row in good if row.get(name) is not None]
        if values:
            out[name] = statistics.fmean(values)
    for name in ("bytes_peak", "bytes_device"):
        out[name] = max((row[name] for row in good if row.get(name) is not None), default=None)
    return out
