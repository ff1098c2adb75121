"""Setups, which is what the bench compares: a full cache, a quantized one, a context shift, or a policy at a budget."""

import dataclasses
from dataclasses import dataclass

from ...config import CACHE_TYPES, CapkvConfig, options, policies
from ...recall.choice import QUOTA

SHIFT = "shift"

#: policies that a seed changes: they look at a sample of queries, or draw what they keep
SEEDED = ("capkv", "h2o", "random")

#: how a full cache may be read otherwise than `full` is: the difference is rounding alone, the floor under all figures
READINGS = {"threads": (1, 512), "batch": (1, 512)}

#: the forms of short names, and what each stands for
NAMES = {
    "full": "the full cache in f16: always measured, the base of every comparison",
    "q8_0": "the full cache with K and V stored in that type",
    "full,batch=32": "the full cache, read in batches of 32 tokens in place of 512 (or `threads=1`: by so many threads): it differs from "
    "`full` by rounding alone, the floor under all figures of `fidelity`",
    "capkv@512": "a policy with a budget of 512 tokens, in f16",
    "capkv@512:q8_0": "the same with K and V in q8_0, which is what every other command does by itself",
    "capkv@=q4_0": "a policy with a budget in bytes: those of a full cache in that type",
    "shift@512": "llama.cpp's context shift in as many cells as a budget of 512 has: when they are full, half of what comes after "
    "the first four tokens is removed",
    "capkv@512,novelty=0": "a policy with one of its options",
    "capkv@512+recall": "the same, and passages of the text come back with the question, if most heads have lost one of them (in "
    "`retrieval` alone)",
    "capkv@512+pin": "a policy that never evicts the system prompt (in `retrieval` alone); +pin+recall is both",
    "capkv@512+oracle": "a policy that never evicts the passages that have the answers (in `retrieval` alone): what a choice could reach "
    "that knew the questions; the order is +pin+oracle+recall",
    "full+recall": "the full cache, and passages of the text come back with the question although nothing is evicted",
}

#: what may stand behind + in a name, in this order
MORE = ("pin", "oracle", "recall")

#: llama.cpp pads a cache to a multiple of N_PAD cells; cells beyond the budget are the headroom, which takes the next batch
N_PAD, N_BATCH_MIN, N_BATCH_MAX = 256, 32, 512


@dataclass(frozen=True)
class Setup:
    """One way to hold a text in the cache; it has a short name, as in NAMES.

    `budget` is in tokens, or "=TYPE" until for_context() makes it a number; 0 is none.
    """

    policy: str | None = None  #: None: a full cache; "shift": context shift
    budget: int | str = 0
    type: str = "f16"  #: of K and V
    options: tuple = ()  #: (name, text of the value) of policy options, as given
    pin: bool = False  #: the system prompt is pinned
    oracle: bool = False  #: the passages that have the answers are pinned
    recall: int = 0  #: tokens of the text that may come back with a question
    seed: int = 1  #: of the policy's sample, unless it is among the options; no part of the name

    @classmethod
    def parse(cls, text: str) -> "Setup":
        """The setup of a short name. Raises ValueError that says which part of it is wrong and what is allowed."""
        whole, *more = text.split("+")
        if more != [word for word in MORE if word in more]:
            raise ValueError(f"setup = {text}: behind + allowed is pin, oracle, recall, or several of them in this order")
        if more:
            base = cls.parse(whole)
            for word in ("pin", "oracle"):
                if word in more and not base.on:
                    raise ValueError(f"setup = {text}: with {word} allowed is a policy")
            if base.policy == SHIFT:
                raise ValueError(f"setup = {text}: with recall allowed is full, a cache type or a policy")
            return dataclasses.replace(base, pin="pin" in more, oracle="oracle" in more, recall=QUOTA * ("recall" in more))
        head, *pairs = text.split(",")
        head, _, kind = head.partition(":")
        policy, at, budget = head.partition("@")
        if not at:
            if policy not in ("full", *CACHE_TYPES) or kind:
                raise ValueError(f"setup = {text}: allowed is full, a cache type ({', '.join(CACHE_TYPES)}) or POLICY@BUDGET")
            return cls(type="f16" if policy == "full" else policy, options=tuple(_reading(text, pair) for pair in pairs))
        if policy != SHIFT and policy not in policies():
            raise ValueError(f"setup = {text}: there is no policy {policy!r}; allowed are {', '.join(policies())}, {SHIFT}")
        kind = kind or "f16"
        for name in (kind, budget[1:] if budget.startswith("=") else kind):
            if name not in CACHE_TYPES:
                raise ValueError(f"setup = {text}: there is no cache type {name!r}; allowed are {', '.join(CACHE_TYPES)}")
        if not budget.startswith("="):
            if not budget.isdecimal() or int(budget) < 1:
                raise ValueError(f"setup = {text}: the budget {budget!r} is not a number of tokens above 0, nor =TYPE")
            budget = int(budget)
        given = []
        for pair in pairs:
            name, found, value = pair.partition("=")
            known = [option for option in options() if option not in ("budget", "policy", "type")]
            if not found or name not in known:
                raise ValueError(f"setup = {text}: {pair!r} is not OPTION=VALUE of {', '.join(known)}")
            given.append((name, value))
        setup = cls(policy, budget, kind, tuple(given))
        if policy != SHIFT and isinstance(budget, int):
            setup.config()
        return setup

    @property
    def name(self) -> str:
        """The short name, which parse() reads."""
        more = "+pin" * self.pin + "+oracle" * self.oracle + "+recall" * bool(self.recall)
        if self.policy is None:
            head = "full" if self.type == "f16" else self.type
        else:
            head = f"{self.policy}@{self.budget}" + ("" if self.type == "f16" else ":" + self.type)
        return head + "".join(f",{name}={value}" for name, value in self.options) + more

    @property
    def on(self) -> bool:
        """Whether a policy of capkv-edge evicts; a context shift is none."""
        return self.policy not in (None, SHIFT)

    @property
    def n_batch(self) -> int:
        """Tokens read at once; with a budget also its headroom, which is a quarter of it, or more where the
        padding gives more, and at most N_BATCH_MAX.

        It is kept small, so that what tokens attend to is little more than the budget."""
        if self.policy is None:
            return int(dict(self.options).get("batch", N_BATCH_MAX))
        n_cells = self.budget + max(N_BATCH_MIN, self.budget // 4)
        n_cells = -(-n_cells // N_PAD) * N_PAD
        return int(dict(self.options).get("headroom", min(N_BATCH_MAX, n_cells - self.budget)))

    @property
    def n_cells(self) -> int:
        """Cells that a budget or a context shift may use; 0 for a full cache."""
        return self.budget + self.n_batch if self.policy else 0

    @property
    def n_threads(self) -> int | None:
        """CPU threads where the name has them; None: those of the engine."""
        found = dict(self.options).get("threads") if self.policy is None else None
        return None if found is None else int(found)

    @property
    def kv_seed(self) -> int | None:
        """The seed that the policy's sample is drawn with; None for a setup that draws nothing."""
        return int(dict(self.options).get("seed", self.seed)) if self.policy in SEEDED else None

    def with_seeds(self, seeds) -> list["Setup"]:
        """The setup once for each seed of the policy's sample; itself where it draws nothing or its name has the seed."""
        if self.policy not in SEEDED or "seed" in dict(self.options):
            return [self]
        return [dataclasses.replace(self, seed=seed) for seed in seeds]

    @property
    def fields(self) -> dict:
        """The fields of a row that say which setup it is of."""
        kinds = dict(type_k=self.type, type_v=self.type, kv_seed=self.kv_seed)
        more = dict(pinned=self.pin, oracle=self.oracle, recall=self.recall)
        given = {name: value for name, value in more.items() if value}
        return dict(setup=self.name, policy=self.policy, **kinds, options=dict(self.options), **given)

    def config(self) -> CapkvConfig:
        """The policy's options. Raises ValueError where they clash."""
        given = {"headroom": self.n_batch, "type": self.type, "seed": self.seed, **dict(self.options)}
        return CapkvConfig(policy=self.policy, budget=self.budget, **given)

    def for_context(self, n_ctx: int, bytes_per_token) -> "Setup":
        """The setup with its budget as a number: for "=TYPE", the largest whose cells fit in the bytes of a full cache of n_ctx
        tokens in TYPE.

        Args:
            bytes_per_token: a function from a cache type to the bytes of one token in it.

        Raises:
            ValueError: the bytes are less than those of N_PAD cells.
        """
        if not isinstance(self.budget, str):
            return self
        n_cells = int(n_ctx * bytes_per_token(self.budget[1:]) / bytes_per_token(self.type)) // N_PAD * N_PAD
        budget = max(n_cells * 4 // 5, n_cells - N_BATCH_MAX)
        if n_cells == 0:
            raise ValueError(f"setup = {self.name}: {n_ctx} tokens in {self.budget[1:]} take less than {N_PAD} cells")
        return dataclasses.replace(self, budget=budget)


def _reading(text: str, pair: str) -> tuple:
    """(name, text of the value) of an option of a full cache. Raises ValueError that says what is allowed."""
    name, _, value = pair.partition("=")
    low, high = READINGS.get(name, (1, 0))
    if not value.isdecimal() or not low <= int(value) <= high:
        allowed = " or ".join(f"{name}=N of {low} to {high}" for name, (low, high) in READINGS.items())
        raise ValueError(f"setup = {text}: {pair!r} is not what a full cache may have: {allowed}")
    return name, str(int(value))
