"""The checks of scripts/checks/gpu/check.sh that run in one process: gpu_measure.py scorers|models|evictions|tiny BUILD

Scores are compared with the float64 references in tests/helpers/. Models are compared with the CPU in the same process: the
logits before the first eviction, and the positions that the heads keep after it. Models with random weights give scores that
lie close together, so rounding changes a few of the kept positions: most of them have to agree, not all.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[1:1] = [str(ROOT / "tests" / "helpers"), str(ROOT / "scripts" / "checks")]

import capkv_edge  # first, since it decides which libraries are loaded

import llama_cpp
import numpy as np
import reference
import reference_peers
import scorer
from gpu_rows import Rows
from gpu_steps import BACKEND, GPU_LAYERS, MODELS, SMALL, make_model

MOST_NMSE = 5e-4  # the limit of llama.cpp's test-backend-ops for matrix products, which may round to TF32
LEAST_KEPT = 0.97  # share of the entries with the better half of the reference's scores that the device's better half has too
LEAST_SAME = 0.85  # intersection over union of the positions that the GPU and the CPU keep

# entries, query heads per KV head, KV heads, d_k, d_v
SCORER_SHAPES = {"odd sizes": (61, 3, 2, 34, 30), "8B": (1536, 4, 8, 128, 128), "wide heads": (700, 4, 1, 256, 256)}

# name: arguments of make_random_gguf.py; a few layers suffice, since they are alike
MODEL_SHAPES = {
    "smollm2-135m": "--layers 4 --vocab 259",
    "llama-3.2-1b": "--layers 3 --vocab 259",
    "llama-3.1-8b": "--layers 2 --vocab 259",
    "qwen2.5-7b": "--layers 2 --vocab 259",
    "qwen3-0.6b": "--layers 3 --vocab 259",
    "gemma-3-1b": "--layers 6 --vocab 259",
    "phi-4-mini": "--layers 2 --vocab 259",
}
if SMALL:
    MODEL_SHAPES = {name: MODEL_SHAPES[name] for name in ("smollm2-135m", "gemma-3-1b")}
N_READ, N_BATCH, N_BUDGET = 1000, 256, 256
N_THREADS = 1 if SMALL else os.cpu_count()


def nmse(got: np.ndarray, want: np.ndarray) -> float:
    return float(((got - want) ** 2).mean() / max((want**2).mean(), 1e-30))


def score_both(policy: str, shape: tuple, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n_head_kv, n]: those of the device, without the fused CPU kernels, and those of the reference."""
    n, group, n_head_kv, d_k, d_v = shape
    rng = np.random.default_rng(n)
    k, v = (rng.normal(size=(n_head_kv, n, d)).astype(np.float32) for d in (d_k, d_v))
    q = rng.normal(size=(64, n_head_kv * group, d_k)).astype(np.float32) + rng.normal(size=(1, n_head_kv * group, d_k)).astype(np.float32)
    rope = dict(next_pos=2 * n, base=10000.0)
    if policy == "capkv-ref":
        given = dict(q_mean=q.mean(0))
        want = reference.capkv_ref(k, v, q.mean(0), neox=True, **rope)
    elif policy == "capkv":
        given = dict(q=q)
        want = reference.capkv(k, v, q, neox=True, **rope)
    else:
        cov = np.einsum("thi,thj->hij", q - q.mean(0), q - q.mean(0)) / len(q)
        pos = np.sort([rng.choice(2 * n, n, replace=False) for _ in range(n_head_kv)], axis=1).astype(np.int32)
        n_q = 1 if policy == "tova" else 33
        q_pos = np.sort(rng.choice(2 * n, n_q, replace=False)).astype(np.int32)
        given = dict(pos=pos, q_mean=q.mean(0), q_cov=cov, q=q[:n_q], q_pos=q_pos)
        want = getattr(reference_peers, policy)(k=k, v=v, neox=True, **given, **rope)
    got = scorer.score(policy, k, v, rope=scorer.NEOX, device=device, graph_only=True, n_head=n_head_kv * group, **given, **rope)
    return got, want


def kept_share(got: np.ndarray, want: np.ndarray, n_sink: int = 4) -> float:
    """Share of the better half of the entries by `want` that is in the better half by `got`, mean over heads. Sinks do not count."""
    half = (got.shape[1] - n_sink) // 2
    best = [np.argsort(-x[:, n_sink:], axis=1)[:, :half] for x in (got, want)]
    return float(np.mean([len(np.intersect1d(a, b)) / half for a, b in zip(*best)]))


def scorers(rows: Rows) -> None:
    devices = [name for name in scorer.devices() if name != "CPU"] if BACKEND == "cuda" else ["CPU"]
    rows.add("scorers", "devices", ", ".join(devices) or "none", None if devices else False)
    for device in devices:
        for name, shape in SCORER_SHAPES.items():
            for policy in ("capkv", "capkv-ref", "expected", "snapkv", "h2o", "tova", "keydiff", "knorm", "leverage"):

                def measure(device=device, shape=shape, policy=policy):
                    got, want = score_both(policy, shape, device)
                    error, kept = nmse(got[:, 4:], want[:, 4:]), kept_share(got, want)
                    return f"NMSE {error:.1e}, {kept:.1%} of the better half", error <= MOST_NMSE and kept >= LEAST_KEPT

                rows.check("scorers", f"{policy} on {device}, {name}", measure)


def read(path, policy: str, gpu_layers: int, kind: int):
    """Read N_READ random tokens.

    Returns:
        (logits of the last token of the first batch [n_vocab], the kept positions, an array per layer and KV head, the number of
        evictions, whether the last logits are finite)
    """
    on_gpu = gpu_layers != 0  # if not, keep the cache and large products off the GPU too
    device = dict(n_gpu_layers=gpu_layers, offload_kqv=on_gpu, op_offload=on_gpu, n_threads=N_THREADS, n_threads_batch=N_THREADS)
    options = dict(kv_budget=N_BUDGET, kv_policy=policy, type_k=kind, type_v=kind, **device)
    llm = capkv_edge.Llama(path, n_ctx=4096, n_batch=N_BATCH, verbose=False, **options)
    try:
        tokens = np.random.default_rng(1).integers(3, 259, N_READ).tolist()
        llm.eval(tokens[:N_BATCH])
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),)).copy()
        for i in range(N_BATCH, N_READ, N_BATCH):
            llm.eval(tokens[i : i + N_BATCH])
        kept = [llm.kv_positions(il, head) for il in llm.kv_layers for head in range(llm.kv_heads(il))]
        last = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),))
        return logits, kept, llm.kv_stats().n_evictions, bool(np.isfinite(last).all())
    finally:
        llm.close()


def compare(path, policy: str, kind: int):
    (a, kept, n_evictions, finite), (b, wanted, n_wanted, _) = (read(path, policy, n, kind) for n in (int(GPU_LAYERS), 0))
    same = float(np.mean([len(np.intersect1d(x, y)) / len(np.union1d(x, y)) for x, y in zip(kept, wanted)]))
    error = nmse(a, b)
    # a q8_0 cache rounds differently on each device: ten times the limit
    limit = 5e-3 if kind == llama_cpp.GGML_TYPE_Q8_0 else MOST_NMSE
    good = finite and n_evictions == n_wanted > 0 and error <= limit and (same >= LEAST_SAME or policy == "random")
    return f"logits NMSE {error:.1e}, {n_evictions} evictions, same positions {same:.1%}", good


def models(rows: Rows) -> None:
    for name, options in MODEL_SHAPES.items():
        path = make_model(name, f"--shape {name} --type F16 {options} --ctx 4096")
        rows.check("models", f"{name}, F16, policy capkv", partial(compare, path, "capkv", llama_cpp.GGML_TYPE_F16))
    first = next(iter(MODEL_SHAPES))
    path = MODELS / f"{first}.gguf"
    for policy in capkv_edge.policies():
        rows.check("models", f"{first}, F16, policy {policy}", partial(compare, path, policy, llama_cpp.GGML_TYPE_F16))
    rows.check("models", f"{first}, cache in q8_0", partial(compare, path, "capkv", llama_cpp.GGML_TYPE_Q8_0))


def evictions(rows: Rows) -> None:
    """The time of an eviction for each policy, on the model of the step speed."""
    from argparse import Namespace

    import policies

    args = Namespace(model=MODELS / "speed.gguf", read=1200 if SMALL else 8192, budget=128 if SMALL else 1024)
    args.threads, args.gpu_layers = 1 if SMALL else os.cpu_count(), int(GPU_LAYERS)
    for policy in capkv_edge.policies():

        def measure(policy=policy):
            row = policies.measure(args, policy)
            return f"{row['ms']:.1f} ms per eviction, {row['n_evictions']} of them, capacity {row['capacity']:.1%}", None

        rows.check("speed", f"evictions by {policy}, budget {args.budget}", measure)


def tiny(rows: Rows) -> None:
    """The run that compute-sanitizer watches: all that runs on the device, in small sizes. Adds no rows."""
    for device in scorer.devices():
        for policy in ("capkv", "capkv-ref", "expected", "h2o", "leverage"):
            score_both(policy, (40, 2, 2, 32, 32), device)
    path = make_model("tiny", "--shape smollm2-135m --layers 2 --vocab 259 --type F16 --ctx 4096")
    for kind in (llama_cpp.GGML_TYPE_F16, llama_cpp.GGML_TYPE_Q8_0):
        print(read(path, "capkv", int(GPU_LAYERS), kind)[2], "evictions")


if __name__ == "__main__":
    {f.__name__: f for f in (scorers, models, evictions, tiny)}[sys.argv[1]](Rows(sys.argv[2]))
