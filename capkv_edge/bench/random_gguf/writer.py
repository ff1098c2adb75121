"""GGUF models with random weights in the shapes of well-known ones, to measure speed and memory, for which words do not matter.

All matrices have one type; norms and biases are F32. Standard deviations are such that the logits of the attention and those of
the next token have a standard deviation of 2, and that no layer outweighs those before it. The vocabulary is the 256 bytes and
fillers. Only gguf and numpy are needed, and little memory. The same options give the same file.
"""

from dataclasses import replace

import gguf
import numpy as np

from .blocks import TYPES, Matrices, n_bytes_of_row, type_for
from .shapes import Shape, matrices_of, vectors_of

N_BYTES_VOCAB = 259  # <unk>, <s>, </s> and the 256 bytes
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
_LOGIT_STD = 2.0


def override(shape: Shape, n_layer: int = None, n_vocab: int = None, n_ctx: int = None) -> Shape:
    """The shape with the sizes that are given.

    Raises:
        ValueError: a size out of range; names the option and what is allowed.
    """
    layers = 6 if shape.window else 1  # the first five have sliding windows
    for option, value, least in (("layers", n_layer, layers), ("vocab", n_vocab, N_BYTES_VOCAB), ("ctx", n_ctx, 1)):
        if value is not None and not least <= value < 2**31:
            raise ValueError(f"--{option} {value}: allowed is {least} or more for {shape.name}")
    given = dict(n_layer=n_layer, n_vocab=n_vocab, n_ctx=n_ctx)
    return replace(shape, **{name: value for name, value in given.items() if value is not None})


def _add_keys(writer, shape: Shape, kind: str, seed: int) -> None:
    # with underscores, since llama.cpp looks for tokens that are not here where a name has phi-3 in it
    writer.add_name(f"random {shape.name.replace('-', '_')} {kind} seed {seed}")
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.d)
    writer.add_value_length(shape.d)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.n_rot or shape.d)
    writer.add_vocab_size(shape.n_vocab)
    if shape.window:
        writer.add_sliding_window(shape.window)
        writer.add_rope_freq_base_swa(10000.0)
    known = gguf.LlamaFileType.__members__
    writer.add_file_type(next(known[name] for name in (f"MOSTLY_{kind}", f"MOSTLY_{kind}_S", f"ALL_{kind}") if name in known))


def add_bytes_vocab(writer, n_vocab: int = N_BYTES_VOCAB) -> None:
    """Add a vocabulary of <unk>, <s>, </s>, the 256 bytes, and tokens that mean nothing up to n_vocab."""
    fillers = range(N_BYTES_VOCAB, n_vocab)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + [f"<filler{i}>" for i in fillers])
    writer.add_token_scores([0.0] * n_vocab)
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256 + [kinds.UNUSED] * len(fillers))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(False)


def _embd_std(shape: Shape) -> float:
    return float(1 / np.sqrt(shape.n_embd)) if shape.arch == "gemma3" else 1.0  # gemma multiplies it by sqrt(n_embd)


def matrices(shape: Shape) -> dict:
    """{name: (shape, standard deviation)} of all matrices. Inputs are normalised, so 1 / sqrt(columns) keeps outputs at 1."""
    ends = ("token_embd.weight",) if shape.tied else ("token_embd.weight", "output.weight")
    out = {name: ((shape.n_vocab, shape.n_embd), _embd_std(shape)) for name in ends}
    for i in range(shape.n_layer):
        for name, size in matrices_of(shape).items():
            gain = np.sqrt(_LOGIT_STD) if name in ("attn_q", "attn_k", "attn_qkv") and not shape.qk_norm else 1.0
            out[f"blk.{i}.{name}.weight"] = (size, float(gain / np.sqrt(size[1])))
    return out


def _vectors(shape: Shape, seed: int) -> dict:
    """{name: float32 values} of norms and biases."""
    rng = np.random.default_rng([seed, 1])
    # random signs, since otherwise a tied output would give the token that was just read
    signs = rng.choice([-1.0, 1.0], shape.n_embd)
    out = {"output_norm.weight": signs * _LOGIT_STD / (_embd_std(shape) * np.sqrt(shape.n_embd))}
    for i in range(shape.n_layer):
        for name, n in vectors_of(shape).items():
            gain = np.sqrt(_LOGIT_STD) if name in ("attn_q_norm.weight", "attn_k_norm.weight") else 1.0
            out[f"blk.{i}.{name}"] = rng.normal(0, 0.2, n) if name.endswith("bias") else np.full(n, gain)
    return {name: values.astype(np.float32) for name, values in out.items()}


def write(path, shape: Shape, kind: str = "Q4_0", seed: int = 0) -> None:
    """Write the model, with no more than a part of a matrix in memory.

    Raises:
        ValueError: the type is not in TYPES, or its blocks do not fit.
    """
    if kind not in TYPES:
        raise ValueError(f"--type {kind}: allowed are {', '.join(TYPES)}")
    writer = gguf.GGUFWriter(str(path), shape.arch)
    _add_keys(writer, shape, kind, seed)
    add_bytes_vocab(writer, shape.n_vocab)
    writer.add_chat_template(TEMPLATE)
    vectors, wanted = _vectors(shape, seed), matrices(shape)
    for name, values in vectors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    kinds = {name: type_for(kind, size[1]) for name, (size, _) in wanted.items()}
    for name, (size, _) in wanted.items():
        as_bytes = (size[0], n_bytes_of_row(kinds[name], size[1]))
        raw = gguf.GGMLQuantizationType[kinds[name]]
        writer.add_tensor_info(name, as_bytes, np.dtype(np.uint8), as_bytes[0] * as_bytes[1], raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for values in vectors.values():
        _write_parts(writer, file, [values])
    source = Matrices(seed)
    for name, (size, std) in wanted.items():
        _write_parts(writer, file, source.rows(kinds[name], size, std))
    writer.close()


def _write_parts(writer, file, parts) -> None:
    n = 0
    for part in parts:
        part.tofile(file)
        n += part.nbytes
    writer.write_padding(file, n)
