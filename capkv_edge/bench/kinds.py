"""What capkv-bench measures: one record for each kind of measurement.

All that treats the kinds alike loops over KINDS: the file of rows, means and verdicts, tables, plots, the page and
docs/results.md. So a new kind is one record here, and a generator that yields its rows.
This module imports nothing of the bench; every part of the bench may read it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass


def text_of(value) -> str:
    """The value of a row's field as a word: for tables, and where it has to be hashable."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Figure:
    """A number of each row, shown as its mean over units with an interval."""

    name: str  #: the field of the rows
    label: str  #: the head of its column
    better: int  #: 1 where more is better, -1 where less is
    what: str  #: one line for the documentation
    called: str = ""  #: its name in sentences; figures that have one get verdicts
    heading: str = ""  #: what stands above its table in docs/results.md, where it is not the first figure
    scale: float = 1
    sign: bool = False  #: show + in front of positive values
    decimals: int | None = None  #: None: two digits of the interval's half width
    decimals_brief: int | None = None  #: the same in docs/results.md
    optional: bool = False  #: rows may lack it; it is shown where they have it
    relative: bool = False  #: pooled over groups as a ratio of both sides, not as their difference
    floor: float | None = None  #: what is not better than it shows no difference: where both sides or the full cache stand there
    floor_from: str = ""  #: a figure that is the floor where rows have it


@dataclass(frozen=True)
class Column:
    """A column of a kind whose rows are shown one by one."""

    label: str
    field: str
    form: str = "text"  #: how the value is written: text, MiB, percent, number, rate or interval
    right: bool = True
    differs: bool = False  #: shown only where the rows differ in it
    missing: str = "-"  #: instead of None
    needs: str = ""  #: a field that has to be above 0, else the value is missing
    optional: bool = False  #: shown only where a row has it


@dataclass(frozen=True)
class Drawing:
    """A plot of the kind. `how` names the function that draws it, in report/plots/draw.py."""

    name: str  #: of the PNG
    how: str  #: bytes: figures against bytes held; heat: scores by depth and length; rates: rates against depth
    title: str
    axis: str = ""  #: label of the y axis
    is_log: bool = False  #: the y axis is logarithmic
    figure: str = ""  #: name of the figure; empty is the first of the kind


@dataclass(frozen=True)
class Kind:
    """A kind of measurement: what its rows are and how they are shown.

    With a `unit`, rows are averaged: a Summary is all rows of one setup in one group, and its figures are means over units.
    Without one, rows are tests of a rate: those that differ in `round` alone become one, and each is shown with its `columns`.
    """

    name: str  #: the field "kind" of the rows
    title: str
    about: str  #: below the title of its table: what the columns mean
    introduction: str  #: below its title in docs/results.md
    key: tuple  #: the fields that say which measurement a row is; one that is in the file is not repeated
    unit: str = ""  #: the field that names what is resampled; tables write "docs" for "doc"
    units: str = ""  #: its plural in sentences
    group: tuple = ()  #: fields that setups must share to be compared, beside the model; all tables show them
    group_more: tuple = ()  #: more of those, which tables show where they differ
    source: tuple = ()  #: fields of the group that say what the units are taken from: units of one name in it are one unit
    pair: tuple = ("seed",)  #: what two rows must share, beside the unit, to be a pair
    figures: tuple = ()  #: the first is the one that plots show
    base_is_full: bool = False  #: figures are differences from the full cache, so nothing is compared with it
    noise: tuple = ()  #: full caches that differ from the base by rounding: the first that was measured is the floor of a group
    lengths: tuple = ()  #: fields of the group that give the length of a text; plots put the first on an axis
    across: tuple = ()  #: fields of the group that are the columns in docs/results.md; none: the budgets are
    beside: tuple = ()  #: fields of the group that go with those in `across`: columns that differ in them alone tell them
    where: Callable | None = None  #: (group) -> the group in words; None: the values of `group`
    heading: Callable | None = None  #: the same without the fields in `across`
    uneven: tuple = ()  #: (field, what to tell the reader where setups of one group differ in it)
    columns: tuple = ()
    plots: tuple = ()  #: the first stands above the tables of docs/results.md, the others below

    @property
    def fields(self) -> tuple:
        return self.group + self.group_more

    @property
    def judged(self) -> tuple:
        """The figures that get verdicts."""
        return tuple(figure for figure in self.figures if figure.called)

    def where_of(self, group: dict) -> str:
        """A group in words, without the fields that tables show only where they differ."""
        return self.where(group) if self.where else ", ".join(text_of(group[name]) for name in self.group)

    def heading_of(self, group: dict) -> str:
        """A group in words above a table that has the fields in `across` as its columns."""
        if self.heading or not self.across:
            return self.heading(group) if self.heading else self.where_of(group)
        return ", ".join(text_of(group[name]) for name in self.group if name not in self.across)


FIDELITY = Kind(
    name="fidelity",
    title="Fidelity to the full cache",
    about="Mean over documents and its 95 % interval, against the logits of the full f16 cache. KLD: KL divergence from "
    "the full cache's distribution, in nats; median and 99% are within a document. Δ log p: change of the real next "
    "token's log probability, in nats; negative is worse than the full cache.",
    introduction="Mean KL divergence of the next token's distribution from that of the full f16 cache, in nats, with its "
    "95 % bootstrap interval over documents. The best policy of each column is bold.",
    key=("model_hash", "corpus", "doc", "doc_hash", "n_ctx", "score_from", "stride", "setup", "n_batch", "kv_seed"),
    unit="doc",
    units="documents",
    group=("corpus", "n_ctx"),
    group_more=("stride",),
    source=("corpus",),
    pair=("doc_hash",),
    figures=(
        Figure("kl_mean", "KLD", -1, "KL divergence from the full cache, nats: mean", "mean KL divergence", relative=True),
        Figure("kl_median", "median", -1, "the same: median over the tokens of a document"),
        Figure("kl_p99", "99%", -1, "the same: 99th percentile over the tokens of a document"),
        Figure("dloglik", "Δ log p", 1, "change of the real next token's log probability, nats; negative is a loss", sign=True),
        Figure("same_top", "same top p, %", 1, "share of tokens with the same likeliest next token", scale=100, decimals=1),
        Figure("rms_dp", "RMS Δp, %", -1, "root mean square of the change of the real next token's probability", scale=100),
    ),
    base_is_full=True,
    noise=("full", "q8_0"),
    lengths=("n_ctx",),
    where=lambda group: f"{group['corpus']}, {group['n_ctx']} tokens",
    uneven=(
        (
            "score_from",
            "only tokens after the first eviction are scored, so setups of different size are scored on different tokens",
        ),
    ),
    plots=(
        Drawing("quality", "bytes", "Quality against bytes", "mean KL divergence from the full cache, nats", is_log=True),
    ),
)


def _text_and_mode(group: dict) -> str:
    return f"{group['haystack']}, {group['length']} {'turns' if group['n_turns'] else 'tokens'}, {group['mode']}"


RETRIEVAL = Kind(
    name="retrieval",
    title="Retrieval",
    about="Mean over texts and its 95 % interval. blind: the eviction came before the question was known; aware: after it was read; "
    "told: the question stood before the text too; focus: its queries took part in each eviction. NLL: negative log likelihood "
    "of the expected answer, nats per token; less is better. guess: the same for who knows the form of the answer alone.",
    introduction="Score in % with its 95 % bootstrap interval over texts. The best policy at each budget is bold.\n"
    "blind: the eviction came before the question was known; aware: after the question was read.",
    key=(
        *("model_hash", "task", "haystack", "length", "mode", "share", "depths", "n_turns", "wording"),
        *("seed", "text", "setup", "n_batch", "kv_seed"),
    ),
    unit="text",
    units="texts",
    group=("task", "haystack", "length", "mode"),
    group_more=("n_turns", "share", "depths", "wording"),
    source=("haystack",),
    figures=(
        Figure(
            "score",
            "score, %",
            1,
            "share of the expected strings that stand in the answer",
            called="score",
            scale=100,
            decimals=1,
            decimals_brief=0,
            floor=0.1,  # what stands in the last tenth of a text is found by every policy, since all keep the end
        ),
        Figure(
            "nll",
            "NLL",
            -1,
            "negative log likelihood of the expected answer, nats per token; without what stands between several strings",
            called="nats per token of the expected answer",
            heading="The expected answer, nats per token",
            optional=True,
            floor=2.0,  # what digits have that are guessed
            floor_from="guess",
        ),
        Figure(
            "guess",
            "guess",
            -1,
            "NLL of who knows the form of the answer alone: logarithm of how many values it could have, by its tokens",
            optional=True,
            decimals=2,
        ),
    ),
    lengths=("length", "n_turns"),
    across=("task",),
    beside=("share", "wording"),
    where=lambda group: f"{group['task']} in {_text_and_mode(group)}",
    heading=_text_and_mode,
    plots=(
        Drawing("retrieval", "bytes", "Retrieval against bytes", "score, %"),
        Drawing("answer-loss", "bytes", "Loss of the answer against bytes", "nats per token of the expected answer", figure="nll"),
        Drawing("heat", "heat", "Retrieval by depth", "score, %"),
    ),
)


LONGBENCH = Kind(
    name="longbench",
    title="Long documents",
    about="Mean over items and its 95 % interval.",
    introduction="Score in % with its 95 % bootstrap interval over items. The best policy at each budget is bold.",
    key=("model_hash", "dataset", "item", "prompts", "mode", "n_ctx", "setup", "n_batch", "kv_seed"),
    unit="item",
    units="items",
    group=("dataset", "metric", "mode"),
    group_more=("n_ctx", "prompts"),
    source=("dataset",),
    figures=(
        Figure("score", "score, %", 1, "the data set's metric", called="score", scale=100, decimals=1, decimals_brief=0),
    ),
    across=("dataset", "metric"),
)


def _continued(group: dict) -> str:
    return f"{group['n_gen']} tokens after {group['n_prompt']}"


CONTINUATION = Kind(
    name="continuation",
    title="Long continuations",
    about="Mean over documents and its 95 % interval. NLL: negative log likelihood of the text's own continuation, which is read, nats "
    "per token. repeated: share of the 4-grams of the continuation that the model writes, greedily and as long, that it had before.",
    introduction="The text's own continuation and the one that the model writes, with 95 % bootstrap intervals over documents. The "
    "best policy at each budget is bold.",
    key=("model_hash", "corpus", "doc", "doc_hash", "n_prompt", "n_gen", "setup", "n_batch", "kv_seed"),
    unit="doc",
    units="documents",
    group=("corpus", "n_prompt", "n_gen"),
    source=("corpus",),
    pair=("doc_hash",),
    figures=(
        Figure(
            "nll",
            "NLL",
            -1,
            "negative log likelihood of the text's own continuation, nats per token",
            called="nats per token of the continuation",
            decimals=3,
        ),
        Figure(
            "repeated",
            "repeated, %",
            -1,
            "share of the 4-grams that the model's own continuation had before",
            called="share of repeated 4-grams",
            heading="Repeated 4-grams, %",
            scale=100,
            decimals=1,
        ),
    ),
    lengths=("n_gen",),
    across=("corpus",),
    where=lambda group: f"{group['corpus']}, {_continued(group)}",
    heading=_continued,
)


SPEED = Kind(
    name="speed",
    title="Speed",
    about="cells: budget and headroom of a policy. KV MiB: all that the cache holds. evict %: share of the test's time that "
    "evictions took. ms/evict: time of one eviction; score, select, compact: of that, to score the entries, to choose those that "
    "stay, to move them. t/s: tokens per second, mean ± standard deviation over the rounds, with the time of an eviction spread "
    "over the tokens that come between two. × full: how many times as fast as the full cache in the same round, with a 95 % "
    "interval over the rounds.",
    introduction="Tokens per second at a depth, which is the number of tokens read before; mean ± standard deviation over the "
    "rounds, with the time of an eviction spread over the tokens that come between two. A setup is compared with the full cache of "
    "the same round, with a 95 % interval over the rounds. At depth 0 nothing was evicted, so the ratio there is the control.",
    key=("model_hash", "setup", "test", "device", "n_threads", "n_gpu_layers", "n_batch", "n_ubatch", "round"),
    columns=(
        Column("model", "model_type", right=False),
        Column("backend", "backends", right=False),
        Column("threads", "n_threads"),
        Column("n_batch", "n_batch", differs=True),
        Column("n_ubatch", "n_ubatch", differs=True),
        Column("type_k", "type_k", differs=True),
        Column("type_v", "type_v", differs=True),
        Column("policy", "policy", right=False, missing="full"),
        Column("budget", "budget"),
        Column("cells", "n_cells"),
        Column("KV MiB", "bytes_total", "MiB"),
        Column("evict %", "evict_share", "percent"),
        Column("ms/evict", "evict_ms", "number", needs="n_evictions"),
        Column("score", "score_ms", "number", needs="n_evictions"),
        Column("select", "select_ms", "number", needs="n_evictions"),
        Column("compact", "compact_ms", "number", needs="n_evictions"),
        Column("test", "test"),
        Column("t/s", "avg_ts", "rate"),
        Column("× full", "ratio", "interval", optional=True),
    ),
    plots=(Drawing("speed", "rates", "Speed against depth", "tokens per second"),),
)


#: by name, in the order of reading
KINDS = {kind.name: kind for kind in (FIDELITY, RETRIEVAL, LONGBENCH, CONTINUATION, SPEED)}
