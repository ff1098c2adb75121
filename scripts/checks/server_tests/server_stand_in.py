"""Make a model for llama.cpp's server tests, instead of the small ones that they download: random weights, llama's tokenizer."""

from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_LAYER, N_HEAD, N_HEAD_KV, N_FF, N_CTX = 64, 2, 4, 2, 128, 2048


def write_stand_in(vocabulary: Path, target: Path) -> Path:
    """Write a llama with random weights and the tokenizer of a GGUF file (llama.cpp has such files in models/); returns target."""
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_feed_forward_length(N_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)

    reader = gguf.GGUFReader(vocabulary)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for number, part in enumerate(("pre", "suf", "mid")):  # the infill tests need these tokens: three that no text contains
        writer.add_uint32(f"tokenizer.ggml.fim_{part}_token_id", 3 + number)

    n_vocab = len(reader.get_field("tokenizer.ggml.tokens").data)
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV
    shapes = {"token_embd": (n_vocab, N_EMBD), "output": (n_vocab, N_EMBD), "output_norm": (N_EMBD,)}
    for i in range(N_LAYER):
        layer = {
            "attn_q": (N_EMBD, N_EMBD),
            "attn_k": (n_kv, N_EMBD),
            "attn_v": (n_kv, N_EMBD),
            "attn_output": (N_EMBD, N_EMBD),
            "ffn_gate": (N_FF, N_EMBD),
            "ffn_up": (N_FF, N_EMBD),
            "ffn_down": (N_EMBD, N_FF),
            "attn_norm": (N_EMBD,),
            "ffn_norm": (N_EMBD,),
        }
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else rng.normal(0, 2 / np.sqrt(shape[-1]), shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
