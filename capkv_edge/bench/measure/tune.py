"""For each policy, the smallest budget that keeps the loss under a limit on a user's own text."""

import shlex
from dataclasses import dataclass, field

import numpy as np

from ..intervals import Interval, intervals
from ..run.setups import Setup
from . import fidelity

STEP = 32  # tokens: budgets are multiples of it
LEAST = 4 * STEP


@dataclass(frozen=True)
class Found:
    """What was found for one policy. `budget` is None where none of Plan.budgets keeps the limit."""

    policy: str
    budget: int | None
    kl: Interval  #: mean KL in nats over the documents, at that budget or at the largest one that was tried
    setup: Setup
    share: float  #: bytes held, as a share of the full f16 cache
    tried: list = field(default_factory=list)  #: (budget, mean KL), in the order of the trials


@dataclass
class Plan:
    """What to look for. `documents` are corpora.Document of n_ctx tokens; `max_kl` is in nats.

    Raises:
        ValueError: n_ctx is too short for the smallest budget, or max_kl is not above 0.
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
        if not self.budgets:
            raise ValueError(
                f"ctx = {self.n_ctx}: allowed is a context that leaves text after a budget of {LEAST}: 512 or more"
            )

    @property
    def budgets(self) -> range:
        """Candidates: budgets whose first eviction comes in the first three quarters of the text, so that text is left to score."""
        top = LEAST - STEP
        while Setup("streaming", top + STEP, self.type).n_cells <= self.n_ctx * 3 // 4:
            top += STEP
        return range(LEAST, top + 1, STEP)


def _loss(engine, plan: Plan, setup: Setup, store, bases: dict, say) -> tuple:
    """(Interval of the mean KL over the documents, share of the full cache's bytes) of one setup."""
    todo = fidelity.Plan(plan.documents, [setup], [plan.n_ctx], plan.stride, plan.seed)
    for _ in fidelity.run(engine, todo, store, say, bases):
        pass
    hashes = {document.hash for document in plan.documents}
    rows = [
        row
        for row in store.rows("fidelity")
        if row["setup"] == setup.name
        and row["doc_hash"] in hashes
        and (row["n_ctx"], row["stride"]) == (plan.n_ctx, plan.stride)
    ]
    rows = list({row["doc_hash"]: row for row in rows if row["model_hash"] == engine.hash}.values())
    interval = intervals(np.array([[row["kl_mean"]] for row in rows]))[0]
    return interval, rows[0]["bytes_total"] / rows[0]["bytes_full"]


def run(engine, plan: Plan, store, progress=lambda done, total, label: None):
    """Bisect for each policy; yields Found. Rows of all trials go into the store, and what it has is not measured again.

    Args:
        progress: called with (trials done, largest number of trials, what is tried).
    """
    n_trials = len(plan.budgets).bit_length() + 1
    total = n_trials * len(plan.policies)
    with fidelity.bases() as bases:
        for i, policy in enumerate(plan.policies):
            results = {}

            def kl(budget, i=i, policy=policy, results=results):
                setup = Setup(policy, budget, plan.type)
                n = i * n_trials + len(results)
                results[budget] = _loss(
                    engine, plan, setup, store, bases, lambda done, of, label: progress(n + done / max(of, 1), total, label)
                )
                return results[budget][0].mean

            budgets = plan.budgets
            fits = kl(budgets[-1]) <= plan.max_kl
            low, high = 0, len(budgets) - 1  # the smallest budget that keeps the limit is in [low, high]
            while fits and low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if kl(budgets[middle]) <= plan.max_kl else (middle + 1, high)
            at = budgets[high]
            interval, share = results[at]
            tried = [(budget, loss.mean) for budget, (loss, _) in results.items()]
            yield Found(policy, at if fits else None, interval, Setup(policy, at, plan.type), share, tried)
            progress((i + 1) * n_trials, total, policy)


def report(found: list, plan: Plan, model: str) -> list:
    """Lines for the terminal: a table of what was found, what it means, and the command line to use."""
    lines = [f"{'policy':<11} {'budget':>7} {'mean KL, nats':>14} {'95 % interval':>17} {'of the full bytes':>18}"]
    for one in found:
        budget = f"> {plan.budgets[-1]}" if one.budget is None else str(one.budget)
        interval = f"{one.kl.lo:.4f} to {one.kl.hi:.4f}" if one.kl.known else "too few documents"
        lines.append(f"{one.policy:<11} {budget:>7} {one.kl.mean:14.4f} {interval:>17} {one.share:18.0%}")
    n = len(plan.documents)
    lines.append("")
    lines.append(f"{n} documents of {plan.n_ctx} tokens; the limit was a mean of {plan.max_kl:g}. What is evicted is gone.")
    good = [one for one in found if one.budget is not None]
    if not good:
        lines.append(f"No budget up to {plan.budgets[-1]} keeps that limit with these policies.")
        return lines
    best = min(good, key=lambda one: (one.share, one.kl.mean))
    if best.kl.known and best.kl.hi > plan.max_kl:
        lines.append(
            "The interval reaches above the limit: other text like this may lose more. More documents make the interval narrower."
        )
    kind = f" --cache-type-k {plan.type} --cache-type-v {plan.type}"
    policy = "" if best.policy == "capkv" else f" --policy {best.policy}"
    lines.append("")
    lines.append(f"capkv-chat {shlex.quote(str(model))} --budget {best.budget}{policy}{kind}")
    return lines
