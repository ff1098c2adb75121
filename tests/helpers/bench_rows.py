"""Made-up rows in the form of capkv-bench, from a seeded generator, so that the true figures are known."""

import re

import numpy as np

#: divergence of a policy at a quarter of the full cache, as a multiple of capkv's
EFFECT = {
    "capkv": 1.0,
    "snapkv": 1.12,
    "h2o": 1.6,
    "expected": 1.0,
    "keydiff": 2.4,
    "streaming": 3.2,
    "random": 4.5,
    "shift": 3.4,
}
BUDGETS = (256, 512, 1024)
FULL = 100 * 2**20  # bytes of the full f16 cache at 4096 tokens

COMMON = dict(
    model="made-up-256M-Q4_1.gguf",
    model_type="llama 256M Q4_1",
    model_hash="0123456789abcdef0123456789abcdef",
    options={},
    seed=1,
    n_threads=2,
    backends=["CPU"],
    n_gpu_layers=0,
    device="a CPU with 2 cores",
    pin="0.0.1",
    version="0.1.0",
    commit="a1b2c3d",
    build="Release",
    date="2024-01-01T00:00:00",
)


def setup_fields(setup: str, n_ctx: int) -> dict:
    """The fields of a row on its setup; a policy's observed queries add a twentieth to the bytes of the cells."""
    policy, _, budget = re.split("[:,+]", setup)[0].partition("@")
    kind = re.split("[,+]", setup)[0].partition(":")[2]
    full = FULL * n_ctx // 4096
    if policy in ("full", "q8_0", "q4_0"):
        type_kv = "f16" if policy == "full" else policy
        policy, budget = None, None
    else:
        type_kv, budget = kind or "f16", int(budget)
    per_cell = {"f16": 1.0, "q8_0": 0.53, "q4_0": 0.28}[type_kv]
    held = int(full * per_cell * (1 if budget is None else budget / n_ctx))
    return dict(
        setup=setup,
        policy=policy,
        budget=budget,
        type_k=type_kv,
        type_v=type_kv,
        n_ctx=n_ctx,
        n_batch=512 if budget is None else min(budget, 512),
        bytes_kv=held,
        bytes_total=held if policy in (None, "shift") else held * 21 // 20,
        bytes_full=full,
    )


def setups(policies=tuple(EFFECT), budgets=BUDGETS) -> list:
    return ["full", "q8_0", "q4_0", *(f"{policy}@{budget}" for policy in policies for budget in budgets)]


def fidelity_row(setup: str, doc: str, kl: float, corpus="python-docs", n_ctx=4096, **changes) -> dict:
    row = dict(
        COMMON, kind="fidelity", corpus=corpus, doc=doc, doc_hash=doc, score_from=n_ctx // 2, stride=1, n_scored=n_ctx // 2
    )
    row |= setup_fields(setup, n_ctx)
    row.update(kl_mean=kl, kl_median=kl / 3, kl_p99=8 * kl, dloglik=-0.6 * kl, same_top=float(np.exp(-1.2 * kl)))
    return row | dict(rms_dp=min(0.1 * kl**0.5, 1.0), n_evicted=0 if row["policy"] is None else 1000) | changes


def true_kl(setup: str, n_ctx: int) -> float:
    """The true mean, over all possible documents."""
    policy, _, budget = re.split("[:,+]", setup)[0].partition("@")
    if policy in ("full", "q8_0", "q4_0"):
        return {"full": 0.0, "q8_0": 0.0008, "q4_0": 0.012}[policy]
    return 0.12 * EFFECT[policy] * (n_ctx / 4 / int(budget)) ** 1.1


def fidelity(n_docs=12, seed=0, names=None, corpora=("python-docs", "novel"), lengths=(2048, 4096)) -> list:
    """Documents differ by a factor that is common to all setups (mean 1), and by a small one for each setup."""
    rng, rows = np.random.default_rng(seed), []
    for corpus in corpora:
        for n_ctx in lengths:
            hard = rng.lognormal(-0.08, 0.4, n_docs)  # mean 1
            for setup in names or setups():
                own = rng.lognormal(-0.00125, 0.05, n_docs)
                rows += [
                    fidelity_row(setup, f"doc-{i:02}", float(true_kl(setup, n_ctx) * hard[i] * own[i]), corpus, n_ctx)
                    for i in range(n_docs)
                ]
    return rows


def retrieval(n_texts=10, seed=0, names=None, tasks=("needle", "table"), lengths=(2048, 4096), mode="blind", n_items=5) -> list:
    """Whether an item is found depends on a text's hardness, the share of the text that is held, and the depth."""
    rng, rows = np.random.default_rng(seed), []
    for task in tasks:
        for length in lengths:
            hard = rng.uniform(0, 1, (n_texts, n_items))
            for setup in names or setups():
                fields = setup_fields(setup, length)
                held = 1.0 if fields["policy"] is None else min(1.0, fields["budget"] / length / EFFECT[fields["policy"]] * 2.2)
                for text in range(n_texts):
                    items = []
                    for i in range(n_items):
                        depth = i / (n_items - 1)
                        score = float(hard[text, i] < (0.95 if task == "needle" else 0.55) * held ** (1.6 - depth))
                        items.append(
                            dict(depth=depth, question=f"q{i}?", expected=["4"], answer="4" if score else "5", score=score)
                        )
                    row = dict(COMMON, kind="retrieval", task=task, haystack="essays", length=length, mode=mode, text=text)
                    rows.append(row | fields | dict(items=items, score=float(np.mean([item["score"] for item in items]))))
    return rows


def speed(seed=0, names=("full", "q4_0", "capkv@1024", "snapkv@1024", "streaming@1024"), depths=(0, 2048, 4096, 8192)) -> list:
    rng, rows = np.random.default_rng(seed), []
    for setup in names:
        for depth in depths:
            for test, n_prompt, n_gen, fast in (("pp512", 512, 0, 300.0), ("tg128", 0, 128, 60.0)):
                fields = setup_fields(setup, max(depth, 1024) + 512)
                seen = min(depth, 1536) if fields["policy"] else depth
                samples = [float(v) for v in fast / (1 + seen / 4096) * rng.normal(1, 0.01, 5)]
                evicts = dict(evict_share=0.03, evict_ms=60.0, n_evictions=3) if fields["policy"] and depth else {}
                row = dict(COMMON, kind="speed", **fields, test=f"{test} @ d{depth}" if depth else test, n_prompt=n_prompt)
                row |= dict(
                    n_gen=n_gen, n_depth=depth, avg_ts=float(np.mean(samples)), stddev_ts=float(np.std(samples, ddof=1))
                )
                row |= dict(samples_ts=samples, n_ubatch=512, bytes_peak=fields["bytes_total"])
                rows.append(row | dict(evict_share=0.0, evict_ms=0.0, n_evictions=0) | evicts)
    return rows


def longbench(n_items=8, seed=0, names=("full", "capkv@512", "streaming@512")) -> list:
    rng, rows = np.random.default_rng(seed), []
    for setup in names:
        for item in range(n_items):
            row = dict(
                COMMON, kind="longbench", dataset="qasper", item=item, length=3500, answer="x", metric="f1", mode="blind"
            )
            rows.append(row | setup_fields(setup, 4096) | dict(score=float(rng.uniform(0.2, 0.6))))
    return rows


def everything(seed=0) -> list:
    return fidelity(seed=seed) + retrieval(seed=seed) + speed(seed=seed) + longbench(seed=seed)
