"""One compression after a prompt, compared with the authors' code (tests/data/smollm2_a_e2e.npz)."""

from pathlib import Path

import numpy as np

from capkv_edge import Llama

import llama_cpp

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "data" / "smollm2_a_e2e.npz")
TYPES = {name: getattr(llama_cpp, f"GGML_TYPE_{name.upper()}") for name in ("f32", "f16", "q8_0", "q4_0")}


def run(model, cache_type, budget):
    """Log-probabilities [32, n_vocab] of the tokens after the prompt, and the kept positions per (layer, head)."""
    tokens, n_prompt = GOLDEN["tokens"].tolist(), int(GOLDEN["n_ctx"])
    kind = TYPES[cache_type]
    budgeted = dict(kv_budget=512, kv_recent=0, kv_policy="capkv-ref") if budget else dict(kv_budget=0, flash_attn=True)
    threads = dict(n_threads=2, n_threads_batch=2)
    llm = Llama(str(model), n_ctx=1024, n_batch=n_prompt, type_k=kind, type_v=kind, verbose=False, **threads, **budgeted)
    try:
        llm.eval(tokens[:n_prompt])
        kept = {}
        if budget:
            llm.compress(budget)
            kept = {(il, h): llm.kv_positions(il, h) for il in range(30) for h in range(3)}
        logp = []
        for token in tokens[n_prompt:]:
            llm.eval([token])
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),)).astype(np.float64)
            logp.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
        return np.array(logp), kept
    finally:
        llm.close()


def compare(model, cache_type, budgets):
    """One dict per budget: iou (mean over layers and heads), kl and the reference's kl, in nats."""
    full, _ = run(model, cache_type, 0)
    for budget in budgets:
        logp, kept = run(model, cache_type, budget)
        want = GOLDEN[f"kept_{budget}"]
        ious = [len(np.intersect1d(pos, want[key])) / len(np.union1d(pos, want[key])) for key, pos in kept.items()]
        kl = float((np.exp(full) * (full - logp)).sum(1).mean())
        yield dict(budget=budget, cache=cache_type, iou=float(np.mean(ious)), kl=kl, kl_reference=float(GOLDEN[f"kl_{budget}"]))
