"""Shapes of well-known models, which make_random_gguf.py fills with random weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model, named as llama.cpp does (d is the length of a head)."""

    name: str
    arch: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    d: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rope_base: float
    tied: bool = False  #: the output matrix is the embedding
    window: int = 0  #: sliding window of all layers but every sixth (gemma3); 0: none
    n_rot: int = 0  #: rotated dimensions of a head; 0: all

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return self.arch in ("qwen3", "gemma3")


_ROWS = (
    # name              arch      layers embd heads kv    d     ff   vocab     ctx  rope
    ("smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5, True),
    ("smollm2-360m", "llama", 32, 960, 15, 5, 64, 2560, 49152, 8192, 1e5, True),
    ("smollm2-1.7b", "llama", 24, 2048, 32, 32, 64, 8192, 49152, 8192, 130e3, True),
    ("tinyllama-1.1b", "llama", 22, 2048, 32, 4, 64, 5632, 32000, 2048, 1e4),
    ("llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, True),
    ("llama-3.2-3b", "llama", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 5e5, True),
    ("llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5),
    ("mistral-7b", "llama", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e6),
    ("qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e6, True),
    ("qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 131072, 1e6),
    ("qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e6, True),
    ("qwen3-1.7b", "qwen3", 28, 2048, 16, 8, 128, 6144, 151936, 40960, 1e6, True),
    ("qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, 1e6, True),
    ("qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1e6),
    ("gemma-3-1b", "gemma3", 26, 1152, 4, 1, 256, 6912, 262144, 32768, 1e6, True, 512),
    ("gemma-3-4b", "gemma3", 34, 2560, 8, 4, 256, 10240, 262208, 131072, 1e6, True, 1024),
    ("phi-3-mini", "phi3", 32, 3072, 32, 32, 96, 8192, 32064, 131072, 1e4),
    ("phi-4-mini", "phi3", 32, 3072, 24, 8, 128, 8192, 200064, 131072, 1e4, True, 0, 96),
)

SHAPES = {row[0]: Shape(*row) for row in _ROWS}


def matrices_of(shape: Shape) -> dict:
    """{name of a matrix in a layer: (rows, columns)}, as they are in the file."""
    n_q, n_kv = shape.n_head * shape.d, shape.n_head_kv * shape.d
    attention = {"attn_q": n_q, "attn_k": n_kv, "attn_v": n_kv}
    ffn = {"ffn_gate": shape.n_ff, "ffn_up": shape.n_ff}
    if shape.arch == "phi3":
        attention, ffn = {"attn_qkv": n_q + 2 * n_kv}, {"ffn_up": 2 * shape.n_ff}
    out = {name: (n, shape.n_embd) for name, n in {**attention, **ffn}.items()}
    return {**out, "attn_output": (shape.n_embd, n_q), "ffn_down": (shape.n_embd, shape.n_ff)}


def vectors_of(shape: Shape) -> dict:
    """{name of a vector in a layer, with its ending: length}: weights of norms, and biases."""
    norms = {"attn_norm": shape.n_embd, "ffn_norm": shape.n_embd}
    if shape.arch == "gemma3":
        norms |= {"post_attention_norm": shape.n_embd, "post_ffw_norm": shape.n_embd}
    if shape.qk_norm:
        norms |= {"attn_q_norm": shape.d, "attn_k_norm": shape.d}
    out = {f"{name}.weight": n for name, n in norms.items()}
    if shape.arch == "qwen2":
        out |= {f"attn_{x}.bias": matrices_of(shape)[f"attn_{x}"][0] for x in "qkv"}
    return out
