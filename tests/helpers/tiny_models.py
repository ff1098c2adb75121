"""Tiny models with random weights as GGUF files: a llama and a Gemma 3, and a BERT and a Mamba, which cannot have a budget."""

import gguf
import numpy as np

from capkv_edge.bench.random_gguf.writer import N_BYTES_VOCAB as N_VOCAB
from capkv_edge.bench.random_gguf.writer import TEMPLATE, add_bytes_vocab


def new_writer(path, arch: str, n_ctx: int, n_embd: int, n_layer: int) -> gguf.GGUFWriter:
    """A GGUF file that is being written; finish() ends it."""
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    return writer


def finish(writer, shapes: dict, seed: int = 0, given: dict = None) -> None:
    """Write tensors of the given shapes, which are random (norms: ones), and those of `given` as they are; close the file."""
    rng = np.random.default_rng(seed)
    for name, values in (given or {}).items():
        writer.add_tensor(name, values)
    for name, shape in shapes.items():
        if name in (given or {}):
            continue
        is_norm = "norm" in name and name.endswith("weight")
        values = np.ones(shape) if is_norm else rng.normal(0, 2 / np.sqrt(shape[-1]), shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama(
    path, n_ctx: int = 4096, n_embd: int = 128, n_layer: int = 2, n_head: int = 4, n_head_kv: int = 2, sampling=None, template=TEMPLATE
) -> None:
    """2 layers, 4 heads and 2 KV heads of 32, a vocabulary of bytes, a chat template.

    sampling: {name: number} that its author asks for.
    """
    n_ff = 256
    writer = new_writer(path, "llama", n_ctx, n_embd, n_layer)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_chat_template(template)
    for name, value in (sampling or {}).items():
        writer.add_float32(f"general.sampling.{name}", value)
    add_bytes_vocab(writer)
    n_kv = n_embd // n_head * n_head_kv
    shapes = {"token_embd.weight": (N_VOCAB, n_embd), "output_norm.weight": (n_embd,), "output.weight": (N_VOCAB, n_embd)}
    for i in range(n_layer):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (n_embd,),
            f"blk.{i}.attn_q.weight": (n_embd, n_embd),
            f"blk.{i}.attn_k.weight": (n_kv, n_embd),
            f"blk.{i}.attn_v.weight": (n_kv, n_embd),
            f"blk.{i}.attn_output.weight": (n_embd, n_embd),
            f"blk.{i}.ffn_norm.weight": (n_embd,),
            f"blk.{i}.ffn_gate.weight": (n_ff, n_embd),
            f"blk.{i}.ffn_up.weight": (n_ff, n_embd),
            f"blk.{i}.ffn_down.weight": (n_embd, n_ff),
        }
    finish(writer, shapes)


def write_gemma3(path, n_ctx: int = 8192, window: int = 128) -> None:
    """6 layers, of which the last has full attention and the others a sliding window; q-norm and k-norm."""
    n_embd, n_layer, n_head, n_head_kv, d, n_ff = 128, 6, 4, 2, 32, 256
    writer = new_writer(path, "gemma3", n_ctx, n_embd, n_layer)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(d)
    writer.add_value_length(d)
    writer.add_sliding_window(window)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(10000.0)
    add_bytes_vocab(writer)
    shapes = {"token_embd.weight": (N_VOCAB, n_embd), "output_norm.weight": (n_embd,)}
    for i in range(n_layer):
        layer = {
            "attn_q": (n_head * d, n_embd),
            "attn_k": (n_head_kv * d, n_embd),
            "attn_v": (n_head_kv * d, n_embd),
            "attn_output": (n_embd, n_head * d),
            "attn_q_norm": (d,),
            "attn_k_norm": (d,),
            "ffn_gate": (n_ff, n_embd),
            "ffn_up": (n_ff, n_embd),
            "ffn_down": (n_embd, n_ff),
        }
        layer |= {name: (n_embd,) for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")}
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    finish(writer, shapes)


def write_bert(path) -> None:
    """An encoder: attention goes in both directions, so nothing may be evicted."""
    n_ctx, n_embd, n_ff = 64, 32, 64
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "▁b"]
    writer = new_writer(path, "bert", n_ctx, n_embd, 1)
    writer.add_head_count(2)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * 2)
    writer.add_token_type_count(2)
    shapes = {
        "token_embd.weight": (len(words), n_embd),
        "position_embd.weight": (n_ctx, n_embd),
        "token_types.weight": (2, n_embd),
        "blk.0.attn_output.weight": (n_embd, n_embd),
        "blk.0.ffn_up.weight": (n_ff, n_embd),
        "blk.0.ffn_down.weight": (n_embd, n_ff),
    }
    for part in "qkv":
        shapes |= {f"blk.0.attn_{part}.weight": (n_embd, n_embd), f"blk.0.attn_{part}.bias": (n_embd,)}
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{norm}.weight": (n_embd,), f"{norm}.bias": (n_embd,)}
    finish(writer, shapes)


def write_mamba(path) -> None:
    """A recurrent model: its memory is of fixed size already."""
    n_embd, n_conv, n_state, n_rank = 32, 4, 8, 4
    n_inner = 2 * n_embd
    writer = new_writer(path, "mamba", 256, n_embd, 1)
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    writer.add_layer_norm_rms_eps(1e-5)
    add_bytes_vocab(writer)
    shapes = {
        "token_embd.weight": (N_VOCAB, n_embd),
        "output_norm.weight": (n_embd,),
        "blk.0.attn_norm.weight": (n_embd,),
        "blk.0.ssm_in.weight": (2 * n_inner, n_embd),
        "blk.0.ssm_conv1d.weight": (n_inner, n_conv),
        "blk.0.ssm_conv1d.bias": (n_inner,),
        "blk.0.ssm_x.weight": (n_rank + 2 * n_state, n_inner),
        "blk.0.ssm_dt.weight": (n_inner, n_rank),
        "blk.0.ssm_dt.bias": (n_inner,),
        "blk.0.ssm_a": (n_inner, n_state),
        "blk.0.ssm_d": (n_inner,),
        "blk.0.ssm_out.weight": (n_embd, n_inner),
    }
    finish(writer, shapes)
