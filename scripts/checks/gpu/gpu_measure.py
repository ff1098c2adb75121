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

import device_scores
import llama_cpp
import numpy as np
import scorer
from device_scores import LEAST_KEPT, MOST_NMSE
from gpu_rows import Rows
from gpu_steps import BACKEND, GPU_LAYERS, MODELS, SMALL, make_model

LEAST_SAME = 0.85  # intersection over union of the positions that the GPU and the CPU keep

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


def scorers(rows: Rows) -> None:
    devices = [name for name in scorer.devices() if name != "CPU"] if BACKEND == "cuda" else ["CPU"]
    rows.add("scorers", "devices", ", ".join(devices) or "none", None if devices else False)
    for device in devices:
        for name, shape in device_scores.SHAPES.items():
            for policy in device_scores.POLICIES:

                def measure(device=device, shape=shape, policy=policy):
                    error, kept = device_scores.compare(policy, shape, device)
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
    error = device_scores.nmse(a, b)
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
            device_scores.score_both(policy, (40, 2, 2, 32, 32), device)
    path = make_model("tiny", "--shape smollm2-135m --layers 2 --vocab 259 --type F16 --ctx 4096")
    for kind in (llama_cpp.GGML_TYPE_F16, llama_cpp.GGML_TYPE_Q8_0):
        print(read(path, "capkv", int(GPU_LAYERS), kind)[2], "evictions")


if __name__ == "__main__":
    {f.__name__: f for f in (scorers, models, evictions, tiny)}[sys.argv[1]](Rows(sys.argv[2]))
