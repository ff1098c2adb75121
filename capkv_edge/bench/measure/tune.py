"""For each policy, the smallest cache that keeps the loss under a limit on a user's own text.

It is chosen on one half of the documents and confirmed on the other half: of several that are tried, the one that is chosen
looks better on the documents it was chosen by than on others.
"""

import shlex
from dataclasses import dataclass, field

import numpy as np

from ..intervals import Interval, intervals
from ..run.rows import key_of
from ..run.setups import N_BATCH_MAX, N_PAD, Setup
from . import fidelity
from .speed import with_batch


LEAST = N_PAD + N_BATCH_MAX  # cells of the smallest candidate
HEADROOM = N_BATCH_MAX  # as capkv-chat has it, which reads so many tokens at once: its cache is the one that was measured


def setup_of(policy: str, n_cells: int, kind: str, seed: int = 1) -> Setup:
    """The setup with so many cells: the budget and HEADROOM."""
    return with_batch(Setup(policy, n_cells - HEADROOM, kind, seed=seed), HEADROOM)


@dataclass(frozen=True)
class Found:
    """What was found for one policy: the smallest cache that keeps the limit, or the largest one that was tried."""

    setup: Setup
    fits: bool  #: it keeps the limit on the documents that it was chosen by
    chosen: Interval  #: mean KL in nats over the documents that it was chosen by
    held_out: Interval  #: the same over the other documents
    share: float  #: bytes held, as a share of the full f16 cache
    tried: list = field(default_factory=list)  #: (cells, mean KL), in the order of the trials

    def is_confirmed(self, max_kl: float) -> bool:
        """Whether the limit is kept on the documents that played no part in the choice, too."""
        return self.fits and self.held_out.mean <= max_kl


@dataclass
class Plan:
    """What to look for. `documents` are corpora.Document of n_ctx tokens; `max_kl` is in nats.

    Raises:
        ValueError: n_ctx is too short for the smallest cache, max_kl is not above 0, or there are less than two documents.
    """

    documents: list
    policies: list
    n_ctx: int
    max_kl: float
    type: str = "f16"
    stride: int = 4
    seed: int = 1

    def __post_init__(self):
        if not self.max_kl > 0:
            raise ValueError(f"max-kl = {self.max_kl}: allowed is a number of nats above 0")
        if not self.cells:
            raise ValueError(f"ctx = {self.n_ctx}: allowed is a context that leaves text after {LEAST} cells: {LEAST * 4 // 3} or more")
        if len(self.documents) < 2:
            raise ValueError(f"docs = {len(self.documents)}: allowed is 2 or more, since one half confirms what the other half chose")

    @property
    def cells(self) -> range:
        """Candidates: as many cells as llama.cpp can have, up to three quarters of the text, so that text is left to score."""
        return range(LEAST, self.n_ctx * 3 // 4 + 1, N_PAD)

    @property
    def chosen_by(self) -> list:
        """The documents that a cache is chosen by: every second one."""
        return self.documents[::2]

    @property
    def held_out(self) -> list:
        """The other documents, which confirm it."""
        return self.documents[1::2]


def _loss(engine, plan: Plan, documents: list, setup: Setup, store, bases: dict, say) -> tuple:
    """(Interval of the mean KL over the documents, share of the full cache's bytes) of one setup. All setups are scored on the
    same tokens: those after the first eviction of the largest candidate."""
    todo = fidelity.Plan(documents, [setup], [plan.n_ctx], plan.stride, plan.seed, score_from=plan.cells[-1])
    for _ in fidelity.run(engine, todo, store, say, bases):
        pass
    keys = {key_of(fidelity.row_of(engine, todo, document, setup, plan.n_ctx)) for document in documents}
    rows = [row for row in store.rows("fidelity") if key_of(row) in keys]
    interval = intervals(np.array([[row["kl_mean"]] for row in rows]))[0]
    return interval, rows[0]["bytes_total"] / rows[0]["bytes_full"]


def run(engine, plan: Plan, store, progress=lambda done, total, label: None):
    """Bisect for each policy over the candidates, then measure what was chosen on the documents held out; yields Found.

    Rows of all trials go into the store, and what it has is not measured again.

    Args:
        progress: called with (trials done, largest number of trials, what is tried).
    """
    cells = plan.cells
    n_trials = len(cells).bit_length() + 2
    total = n_trials * len(plan.policies)
    with fidelity.bases() as bases:
        for i, policy in enumerate(plan.policies):
            results = {}

            def measure(documents, n_cells, n, policy=policy):
                setup = setup_of(policy, n_cells, plan.type, plan.seed)

                def say(done, of, label):
                    progress(n + done / max(of, 1), total, label)

                return _loss(engine, plan, documents, setup, store, bases, say)

            def keeps(n_cells, i=i, measure=measure, results=results):
                results[n_cells] = measure(plan.chosen_by, n_cells, i * n_trials + len(results))
                return results[n_cells][0].mean <= plan.max_kl

            fits = keeps(cells[-1])
            low, high = 0, len(cells) - 1  # the smallest candidate that keeps the limit is in [low, high]
            while fits and low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if keeps(cells[middle]) else (middle + 1, high)
            chosen, share = results[cells[high]]
            held_out, _ = measure(plan.held_out, cells[high], (i + 1) * n_trials - 1)
            tried = [(n_cells, loss.mean) for n_cells, (loss, _) in results.items()]
            yield Found(setup_of(policy, cells[high], plan.type, plan.seed), fits, chosen, held_out, share, tried)
            progress((i + 1) * n_trials, total, policy)


def _loss_text(found: Interval) -> str:
    return f"{found.mean:.4f}" + (f" [{found.lo:.4f}, {found.hi:.4f}]" if found.known else "")


def report(found: list, plan: Plan, model: str) -> list:
    """Lines for the terminal: a table of what was found, what it means, and the command line to use."""
    lines = [f"{'policy':<11} {'budget':>7} {'cells':>7} {'of the full bytes':>18} {'mean KL, chosen by':>26} {'mean KL, held out':>26}"]
    for one in found:
        budget, n_cells = (f"{'' if one.fits else '> '}{n}" for n in (one.setup.budget, one.setup.n_cells))
        losses = f"{_loss_text(one.chosen):>26} {_loss_text(one.held_out):>26}"
        lines.append(f"{one.setup.policy:<11} {budget:>7} {n_cells:>7} {one.share:18.0%} {losses}")
    n = len(plan.chosen_by), len(plan.held_out)
    lines.append("")
    lines.append(
        f"Nats, with a 95 % interval where there are documents enough. The limit was a mean of {plan.max_kl:g}. Chosen by {n[0]} documents "
        f"of {plan.n_ctx} tokens, confirmed on {n[1]} others; scored from token {plan.cells[-1]} on. What is evicted is gone."
    )
    if not any(one.fits for one in found):
        lines.append(f"No cache of up to {plan.cells[-1]} cells keeps that limit with these policies.")
        return lines
    good = [one for one in found if one.is_confirmed(plan.max_kl) and one.setup.on]  # capkv-chat has no context shift
    if not good:
        lines.append("None of these keeps the limit on the documents held out: choose with a smaller --max-kl, or by more documents.")
        return lines
    best = min(good, key=lambda one: (one.share, one.held_out.mean))
    if best.held_out.known and best.held_out.hi > plan.max_kl:
        lines.append(
            "The interval reaches above the limit: other text like this may lose more. More documents make the interval narrower."
        )
    budget = str(best.setup.budget) + (f" --headroom {HEADROOM}" if best.setup.budget // 4 > HEADROOM else "")
    kind = f" --cache-type-k {plan.type} --cache-type-v {plan.type}"
    policy = "" if best.setup.policy == "capkv" else f" --policy {best.setup.policy}"
    lines.append("")
    lines.append(f"capkv-chat {shlex.quote(str(model))} --budget {budget}{policy}{kind}")
    return lines
