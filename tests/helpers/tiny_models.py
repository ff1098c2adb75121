"""Tiny models with random weights, written as GGUF files in a moment: a llama that works, a BERT and a Mamba that refuse a budget."""

import gguf
import numpy as np

N_VOCAB = 259  # <unk>, <s>, </s> and the 256 bytes

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _writer(path, arch: str, n_ctx: int, n_embd: int, n_layer: int) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    return writer


def _add_bytes_vocab(writer) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)])
    writer.add_token_scores([0.0] * N_VOCAB)
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(False)


def _finish(writer, shapes: dict, seed: int = 0, given: dict = None) -> None:
    """Write tensors of the given shapes, random but for norms, and those of `given` as they are."""
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


def write_llama(path, n_ctx: int = 4096, n_embd: int = 128, n_layer: int = 2, n_head: int = 4, n_head_kv: int = 2) -> None:
    """2 layers, 4 heads and 2 KV heads of 32, a vocabulary of bytes, a chat template."""
    n_ff = 256
    writer = _writer(path, "llama", n_ctx, n_embd, n_layer)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_chat_template(TEMPLATE)
    _add_bytes_vocab(writer)
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
    _finish(writer, shapes)


def write_gemma3(path, n_ctx: int = 8192, window: int = 128) -> None:
    """6 layers, of which the last has full attention and the others a sliding window; q-norm and k-norm."""
    n_embd, n_layer, n_head, n_head_kv, d, n_ff = 128, 6, 4, 2, 32, 256
    writer = _writer(path, "gemma3", n_ctx, n_embd, n_layer)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(d)
    writer.add_value_length(d)
    writer.add_sliding_window(window)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(10000.0)
    _add_bytes_vocab(writer)
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
    _finish(writer, shapes)


def write_bert(path) -> None:
    """An encoder: attention in both directions, nothing to evict."""
    n_ctx, n_embd, n_ff = 64, 32, 64
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "▁b"]
    writer = _writer(path, "bert", n_ctx, n_embd, 1)
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
    _finish(writer, shapes)


def write_mamba(path) -> None:
    """A recurrent model: its memory is of fixed size already."""
    n_embd, n_conv, n_state, n_rank = 32, 4, 8, 4
    n_inner = 2 * n_embd
    writer = _writer(path, "mamba", 256, n_embd, 1)
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_bytes_vocab(writer)
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
    _finish(writer, shapes)
