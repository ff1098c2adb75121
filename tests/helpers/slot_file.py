"""What a slot that llama-server saved holds, read by libllama in this process."""

from pathlib import Path

from raw_context import RawContext

from capkv_edge import CapkvConfig

N_MAX, N_BATCH = 4096, 64


def read_slot(path: Path, model: Path, n_slots: int, budget: int, **kv) -> tuple[list, list]:
    """Its tokens, and for each head of each layer the positions held. n_slots, budget and its options are those of the server."""
    context = RawContext(model, CapkvConfig(budget=budget, **kv), n_ctx=N_MAX * n_slots, n_batch=N_BATCH, n_seq=n_slots)
    try:
        size, tokens = context.load_file(path, 0, N_MAX)
        assert size == path.stat().st_size
        mark, _, n_text = tokens[:3]
        assert mark == -1, "not how the server lays out a slot's tokens"
        return tokens[3 : 3 + n_text], context.held(0)
    finally:
        context.close()
