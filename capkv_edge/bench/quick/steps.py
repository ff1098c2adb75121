"""What a quick run measures, in which order, and how long the documents may be for it to fit a time limit. Opens no model."""

from dataclasses import dataclass

from ..run.setups import Setup
from .cost import Cost

LEAST_CTX = 1024  #: tokens of the shortest document: an eighth of it still holds sinks, the recent window and a choice between
FIT_DOCS, FIT_ROUNDS = 3, 1  #: documents and rounds of speed that the length is chosen for: a budget is for long ones
N_DOCS, N_ROUNDS = 6, 2  #: those that come before the budgets in f16: intervals need five documents, verdicts six
MOST_DOCS, MOST_ROUNDS = 16, 5  #: where a run ends although time is left
PROBE_SHARE = 0.04  #: of the time limit, for the first batches
N_GEN = 32  #: tokens that are decoded to measure the speed
CHAT_BATCH = 512  #: capkv-chat reads so many tokens at once, and has as many cells of headroom or a quarter of the budget

PARTS = {2: "1/2", 4: "1/4", 8: "1/8"}  #: budgets, as divisors of the document
FLOOR = Setup.parse("full,batch=32")  #: the full cache, read in batches for which ggml has another kernel: its loss is rounding


def budgets(n_ctx: int, type: str) -> list:
    """The Setups with budgets of PARTS of n_ctx tokens."""
    return [Setup("capkv", n_ctx // part, type) for part in PARTS]


def core(n_ctx: int) -> list:
    """The Setups whose loss is measured first: the floor of rounding, quantized full caches, and budgets in q8_0, which is what a
    budget has by itself."""
    return [FLOOR, Setup.parse("q8_0"), Setup.parse("q4_0"), *budgets(n_ctx, "q8_0")]


def more(n_ctx: int) -> list:
    """The Setups whose loss is measured where time is left: the same budgets in f16."""
    return budgets(n_ctx, "f16")


def as_in_chat(setup: Setup) -> Setup:
    """The setup with the headroom that it has in capkv-chat, which its memory and speed depend on."""
    if not setup.on:
        return setup
    return Setup(setup.policy, setup.budget, setup.type, (("headroom", str(max(CHAT_BATCH, setup.budget // 4))),))


def timed(n_ctx: int) -> list:
    """The Setups whose speed and memory are measured, as capkv-chat would have them."""
    return [Setup(), *(as_in_chat(setup) for setup in core(n_ctx) if setup != FLOOR)]


def stride(n_ctx: int) -> int:
    """Every how many tokens one is scored: a few hundred in each document."""
    return max(1, n_ctx // 1024)


def first_scored(n_ctx: int) -> int:
    """The first token that is scored: all budgets have evicted by then."""
    first = max(n_ctx // 2, *(setup.n_cells for setup in (*core(n_ctx), *more(n_ctx))))
    return first + -first % stride(n_ctx)


@dataclass(frozen=True)
class Step:
    """One thing to measure: the loss of setups on a document, or one round of the speed of all timed setups."""

    what: str  #: core, more or speed
    i: int  #: number of the document, or of the round; both from 0

    def setups(self, n_ctx: int) -> list:
        """What it measures."""
        return dict(core=core, more=more, speed=timed)[self.what](n_ctx)

    def seconds(self, n_ctx: int, cost: Cost) -> float:
        """What it will take."""
        setups = self.setups(n_ctx)
        if self.what == "speed":
            return sum(cost.case(setup, n_ctx, N_GEN) for setup in setups)
        n_scored = n_ctx // 2 // stride(n_ctx)
        return sum(cost.reading(setup, n_ctx, n_scored) for setup in [Setup(), *setups])


def steps(n_docs: int) -> list:
    """All Steps of n_docs documents, those that matter most first: a run that is stopped anywhere has a page to show."""
    n_first = min(N_DOCS, n_docs)
    rounds = [Step("speed", i) for i in range(MOST_ROUNDS)]
    return [
        Step("core", 0),
        *rounds[:1],
        *(Step("core", i) for i in range(1, n_first)),
        *rounds[1:N_ROUNDS],
        *(Step("more", i) for i in range(n_first)),
        *rounds[N_ROUNDS : N_ROUNDS + 1],
        *(Step(what, i) for i in range(n_first, n_docs) for what in ("core", "more")),
        *rounds[N_ROUNDS + 1 :],
    ]


def fitting(todo: list, n_ctx: int, cost: Cost, seconds: float) -> list:
    """The first of the Steps, as many as fit into the seconds."""
    out = []
    for step in todo:
        seconds -= step.seconds(n_ctx, cost)
        if seconds < 0:
            break
        out.append(step)
    return out


def lengths(n_ctx_train: int, n_tokens: int) -> list:
    """Lengths of a document in tokens that may be measured, ascending: powers of two up to the trained length, of which a text of
    n_tokens has FIT_DOCS; the shortest also where it has fewer.

    Raises:
        ValueError: the model is trained for less than LEAST_CTX tokens.
    """
    if n_ctx_train < LEAST_CTX:
        raise ValueError(f"this model was trained for {n_ctx_train} tokens; a quick run reads documents of {LEAST_CTX:,} at least")
    out = [LEAST_CTX]
    while 2 * out[-1] <= n_ctx_train and 2 * out[-1] * FIT_DOCS <= n_tokens:
        out.append(2 * out[-1])
    return out


def choose_length(allowed: list, cost: Cost, seconds: float, n_docs_of) -> int:
    """The longest of the allowed lengths that leaves time for FIT_DOCS documents and FIT_ROUNDS rounds, else the shortest.

    Args:
        seconds: the whole time limit.
        n_docs_of: a function from a length to the number of documents that there are of it.

    Raises:
        ValueError: not even the loss on one document and one round of speed fit into the seconds.
    """

    def needed(n_ctx: int, n_docs: int, n_rounds: int) -> float:
        wanted = [*(Step("core", i) for i in range(n_docs)), *(Step("speed", i) for i in range(n_rounds))]
        return sum(step.seconds(n_ctx, cost) for step in wanted)

    for n_ctx in reversed(allowed):
        if needed(n_ctx, min(FIT_DOCS, n_docs_of(n_ctx)), FIT_ROUNDS) <= (1 - PROBE_SHARE) * seconds:
            return n_ctx
    least = needed(allowed[0], 1, 1) / (1 - PROBE_SHARE)
    if least > seconds:
        raise ValueError(
            f"--minutes = {seconds / 60:g}: one document of {allowed[0]:,} tokens and one round of speed take about {least / 60:.1f} "
            f"minutes with this model here; allowed is {least / 60 + 0.1:.1f} or more"
        )
    return allowed[0]
