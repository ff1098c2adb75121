"""More tiny models with random weights: the shapes of attention that llama.cpp knows, and those that refuse a budget."""

import gguf
import numpy as np
from tiny_models import N_VOCAB, add_bytes_vocab, finish, new_writer

N_EMBD, N_FF = 128, 256


def _attention(n_head, n_head_kv, d) -> dict:
    return {
        "attn_q": (n_head * d, N_EMBD),
        "attn_k": (n_head_kv * d, N_EMBD),
        "attn_v": (n_head_kv * d, N_EMBD),
        "attn_output": (N_EMBD, n_head * d),
    }


def _ffn() -> dict:
    return {"ffn_gate": (N_FF, N_EMBD), "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}


def _norms(*names, n=N_EMBD) -> dict:
    return {name: (n,) for name in names}


def _blocks(layers) -> dict:
    """Full names of the tensors of each layer."""
    return {f"blk.{i}.{name}.weight": shape for i, layer in enumerate(layers) for name, shape in layer.items()}


def _start(path, arch, n_layer, n_head, n_head_kv, d, n_ctx=4096):
    writer = new_writer(path, arch, n_ctx, N_EMBD, n_layer)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_feed_forward_length(N_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(d)
    writer.add_value_length(d)
    writer.add_rope_dimension_count(d)
    add_bytes_vocab(writer)
    return writer


def _ends(out_norm="output_norm") -> dict:
    return {"token_embd.weight": (N_VOCAB, N_EMBD), f"{out_norm}.weight": (N_EMBD,)}


def write_decoder(path, arch, n_layer=2, n_head=4, n_head_kv=2, d=32, qk_norm=False, options=None, given=None):
    """As llama's layers, with an optional q-norm and k-norm; options(writer) adds keys; given: tensors as they are."""
    writer = _start(path, arch, n_layer, n_head, n_head_kv, d)
    if options:
        options(writer)
    layer = _attention(n_head, n_head_kv, d) | _ffn() | _norms("attn_norm", "ffn_norm")
    if qk_norm:
        layer |= _norms("attn_q_norm", "attn_k_norm", n=d)
    finish(writer, _ends() | _blocks([layer] * n_layer), given=given)


def write_yarn(path):
    """RoPE scaled by YaRN, four times beyond 256 tokens."""

    def options(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(256)

    write_decoder(path, "llama", options=options)


def write_longrope(path, n_orig):
    """Two sets of frequency factors, as Phi 3 and MiniCPM have them: the long ones are for contexts of more than n_orig tokens."""

    def options(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(n_orig)

    factors = {"long": np.linspace(4, 16, 16), "short": np.linspace(1, 2, 16)}
    given = {f"rope_factors_{name}.weight": values.astype(np.float32) for name, values in factors.items()}
    write_decoder(path, "llama", options=options, given=given)


def write_freqs(path, factors):
    """Frequency factors, as Llama 3.1 has them."""
    write_decoder(path, "llama", given={"rope_freqs.weight": np.asarray(factors, np.float32)})


def write_norm_after_rope(path, gain):
    """Hunyuan normalises queries and keys after RoPE; gain [d]: weights of the norm of the queries."""
    given = {f"blk.{i}.attn_q_norm.weight": np.asarray(gain, np.float32) for i in range(2)}
    write_decoder(path, "hunyuan-dense", qk_norm=True, given=given)


def write_temperature(path):
    """Ministral scales its queries after RoPE, by their position."""

    def options(writer):
        writer.add_rope_scaling_orig_ctx_len(64)
        writer.add_float32("mistral3.attention.temperature_scale", 0.5)

    write_decoder(path, "mistral3", options=options)


def write_mrope(path):
    write_decoder(path, "qwen2vl", options=lambda writer: writer.add_rope_dimension_sections([8, 4, 4, 0]))


def write_partial(path, n_rot=8):
    """StableLM rotates a part of each head."""
    writer = _start(path, "stablelm", 2, 4, 2, 32)
    writer.add_rope_dimension_count(n_rot)
    writer.add_layer_norm_eps(1e-5)
    layer = _attention(4, 2, 32) | _ffn() | _norms("attn_norm", "ffn_norm")
    shapes = _ends() | {"output.weight": (N_VOCAB, N_EMBD)} | _blocks([layer] * 2)
    biases = {name.replace("weight", "bias"): shape for name, shape in shapes.items() if "norm" in name}
    finish(writer, shapes | biases)


def write_untried(path):
    """A language model for speech, which can have a budget; nothing runs it with one but the test of kv_untested."""
    writer = _start(path, "pockettts", 2, 4, 2, 32)
    writer.add_layer_norm_eps(1e-5)
    layer = _attention(4, 2, 32) | {"ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)} | _norms("attn_norm", "ffn_norm")
    shapes = _ends() | _blocks([layer] * 2)
    finish(writer, shapes | {name.replace("weight", "bias"): shape for name, shape in shapes.items() if "norm" in name})


def write_uneven(path):
    """DeciLM: layers of different head counts, one of them with no attention and one linear."""
    n_head, n_head_kv = [4, 0, 4, 8, 4], [2, 0, 0, 4, 1]
    writer = _start(path, "deci", 5, n_head, n_head_kv, 32)
    layers = []
    for h, h_kv in zip(n_head, n_head_kv):
        attention = _attention(h, h_kv, 32) if h_kv else {"attn_output": (N_EMBD, N_EMBD)} if h else {}
        layers.append(attention | (_norms("attn_norm") if h else {}) | _ffn() | _norms("ffn_norm"))
    finish(writer, _ends() | _blocks(layers))


def write_lfm2(path, window=0):
    """Short convolutions and attention in turns; with a window, all of its attention is local."""
    n_head_kv = [0, 2, 0, 2]
    writer = _start(path, "lfm2", 4, 4, n_head_kv, 32)
    writer.add_shortconv_l_cache(3)
    if window:
        writer.add_sliding_window(window)
    conv = {"shortconv.conv": (N_EMBD, 3), "shortconv.in_proj": (3 * N_EMBD, N_EMBD), "shortconv.out_proj": (N_EMBD, N_EMBD)}
    attention = _attention(4, 2, 32) | _norms("attn_q_norm", "attn_k_norm", n=32)
    common = _ffn() | _norms("attn_norm", "ffn_norm")
    finish(writer, _ends("token_embd_norm") | _blocks([common | (attention if h else conv) for h in n_head_kv]))


def write_jamba(path):
    """A Mamba layer and an attention layer without RoPE in turns."""
    n_head_kv = [0, 2, 0, 2]
    n_inner, n_conv, n_state, n_rank = 2 * N_EMBD, 4, 8, 4
    writer = _start(path, "jamba", 4, 4, n_head_kv, 32)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    mamba = {
        "ssm_in": (2 * n_inner, N_EMBD),
        "ssm_conv1d": (n_inner, n_conv),
        "ssm_x": (n_rank + 2 * n_state, n_inner),
        "ssm_dt": (n_inner, n_rank),
        "ssm_out": (N_EMBD, n_inner),
        "ssm_dt_norm": (n_rank,),
        "ssm_b_norm": (n_state,),
        "ssm_c_norm": (n_state,),
    }
    common = _ffn() | _norms("attn_norm", "ffn_norm")
    shapes, given = _ends() | _blocks([common | (_attention(4, 2, 32) if h else mamba) for h in n_head_kv]), {}
    for i in (0, 2):
        shapes |= {f"blk.{i}.ssm_conv1d.bias": (n_inner,), f"blk.{i}.ssm_dt.bias": (n_inner,), f"blk.{i}.ssm_d": (n_inner,)}
        given[f"blk.{i}.ssm_a"] = -np.ones((n_inner, n_state), np.float32)  # a state that decays
    finish(writer, shapes, given=given)


def write_gemma4(path, factors, window=64):
    """Sliding-window and full layers in turns; the last of each reuse the cache of the ones before."""
    n_layer, n_head, n_head_kv, d = 6, 4, 2, 32
    writer = _start(path, "gemma4", n_layer, n_head, n_head_kv, d)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(10000.0)
    writer.add_sliding_window(window)
    writer.add_sliding_window_pattern([i % 2 == 0 for i in range(n_layer)])
    writer.add_shared_kv_layers(2)
    writer.add_embedding_length_per_layer_input(0)
    writer.add_uint32("gemma4.attention.key_length_swa", d)
    writer.add_uint32("gemma4.attention.value_length_swa", d)
    writer.add_rope_dimension_count_swa(d)
    layer = _attention(n_head, n_head_kv, d) | _ffn() | _norms("attn_q_norm", "attn_k_norm", n=d)
    layer |= _norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    given = {"rope_freqs.weight": np.asarray(factors, np.float32)}
    finish(writer, _ends() | _blocks([layer] * n_layer), given=given)


# --- models that refuse a budget ---


def write_mla(path, indexer=False):
    """DeepSeek V3's attention; with an indexer that of V3.2. No experts: all layers are dense."""
    arch = "deepseek32" if indexer else "deepseek2"
    n_head, n_rank, d_rope, d_nope, d_v = 2, 32, 16, 16, 32
    writer = new_writer(path, arch, 4096, N_EMBD, 1)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(1)
    writer.add_feed_forward_length(N_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(n_rank + d_rope)
    writer.add_value_length(n_rank)
    writer.add_key_length_mla(d_nope + d_rope)
    writer.add_value_length_mla(d_v)
    writer.add_rope_dimension_count(d_rope)
    writer.add_q_lora_rank(n_rank)
    writer.add_kv_lora_rank(n_rank)
    writer.add_leading_dense_block_count(1)
    writer.add_expert_feed_forward_length(N_FF)
    writer.add_expert_shared_count(1)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    add_bytes_vocab(writer)
    layer = {
        "attn_q_a": (n_rank, N_EMBD),
        "attn_q_b": (n_head * (d_nope + d_rope), n_rank),
        "attn_kv_a_mqa": (n_rank + d_rope, N_EMBD),
        "attn_k_b": (n_head, n_rank, d_nope),
        "attn_v_b": (n_head, d_v, n_rank),
        "attn_output": (N_EMBD, n_head * d_v),
        **_norms("attn_q_a_norm", "attn_kv_a_norm", n=n_rank),
        **_norms("attn_norm", "ffn_norm"),
        **_ffn(),
    }
    shapes = _ends()
    if indexer:
        n_index, d_index = 2, 64
        writer.add_indexer_head_count(n_index)
        writer.add_indexer_key_length(d_index)
        writer.add_indexer_top_k(16)
        layer |= {
            "indexer.proj": (n_index, N_EMBD),
            "indexer.attn_k": (d_index, N_EMBD),
            "indexer.attn_q_b": (n_index * d_index, n_rank),
            "indexer.k_norm": (d_index,),
        }
        shapes |= {"blk.0.indexer.k_norm.bias": (d_index,)}
    finish(writer, shapes | _blocks([layer]))


def write_gpt2(path):
    """Learned positions, which end."""
    writer = _start(path, "gpt2", 1, 4, 4, 32, n_ctx=256)
    writer.add_layer_norm_eps(1e-5)
    layer = {"attn_qkv": (3 * N_EMBD, N_EMBD), "attn_output": (N_EMBD, N_EMBD), "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
    layer |= _norms("attn_norm", "ffn_norm")
    shapes = _ends() | {"position_embd.weight": (256, N_EMBD)} | _blocks([layer])
    for name, shape in dict(shapes).items():
        if name.startswith(("blk", "output_norm")):
            shapes[name.replace("weight", "bias")] = shape[:1]
    finish(writer, shapes)


def write_rwkv7(path):
    n_rank, d = 8, 32
    writer = new_writer(path, "rwkv7", 4096, N_EMBD, 1)
    writer.add_head_count(0)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(d)
    writer.add_feed_forward_length(N_FF)
    writer.add_decay_lora_rank(n_rank)
    writer.add_iclr_lora_rank(n_rank)
    writer.add_value_residual_mix_lora_rank(n_rank)
    writer.add_gate_lora_rank(n_rank)
    add_bytes_vocab(writer)
    layer = {"time_mix_lerp_fused": (6, 1, 1, N_EMBD), "channel_mix_lerp_k": (1, 1, N_EMBD)}
    for x in "wavg":
        layer |= {f"time_mix_{x}1": (n_rank, N_EMBD), f"time_mix_{x}2": (N_EMBD, n_rank)}
    layer |= {f"time_mix_{x}": (N_EMBD,) for x in ("w0", "a0", "v0", "k_k", "k_a", "r_k", "ln")}
    layer |= {f"time_mix_{x}": (N_EMBD, N_EMBD) for x in ("key", "value", "receptance", "output")}
    layer |= {"channel_mix_key": (N_FF, N_EMBD), "channel_mix_value": (N_EMBD, N_FF)}
    layer |= _norms("attn_norm", "attn_norm_2")
    shapes = _ends() | {"output.weight": (N_VOCAB, N_EMBD), "token_embd_norm.weight": (N_EMBD,)} | _blocks([layer])
    normed = ("token_embd_norm", "output_norm", "blk.0.attn_norm", "blk.0.attn_norm_2", "blk.0.time_mix_ln")
    biases = {f"{name}.bias": (N_EMBD,) for name in normed}
    finish(writer, shapes | biases)


def write_t5(path):
    n_head, d = 4, 32
    writer = _start(path, "t5", 1, n_head, n_head, d)
    writer.add_relative_attn_buckets_count(8)
    writer.add_decoder_start_token_id(1)
    square = (N_EMBD, N_EMBD)
    shapes = {"token_embd.weight": (N_VOCAB, N_EMBD), "enc.output_norm.weight": (N_EMBD,), "dec.output_norm.weight": (N_EMBD,)}
    for side, parts in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
        for part in parts:
            shapes |= {f"{side}.blk.0.{part}_{x}.weight": square for x in "qkvo"} | {f"{side}.blk.0.{part}_norm.weight": (N_EMBD,)}
        shapes |= {f"{side}.blk.0.attn_rel_b.weight": (8, n_head), f"{side}.blk.0.ffn_norm.weight": (N_EMBD,)}
        shapes |= {f"{side}.blk.0.ffn_up.weight": (N_FF, N_EMBD), f"{side}.blk.0.ffn_down.weight": (N_EMBD, N_FF)}
    finish(writer, shapes)
