"""The keywords of Llama() that it hands on, for type checkers: a name that is not here is an error there too."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from llama_cpp.llama_chat_format import LlamaChatCompletionHandler
    from llama_cpp.llama_speculative import LlamaDraftModel
    from llama_cpp.llama_tokenizer import BaseLlamaTokenizer


class KvKeywords(TypedDict, total=False):
    """The options of a budget; help(Llama.__init__) says what they are."""

    kv_budget: int | str | None
    kv_policy: str | None
    kv_sink: int | None
    kv_recent: int | None
    kv_headroom: int | str | None
    kv_tau: float | None
    kv_novelty: float | None
    kv_reindex: str | None
    kv_seed: int | None
    kv_type: str | None
    kv_untested: bool | None


class Keywords(KvKeywords, total=False):
    """Those, and the keywords of llama_cpp.Llama that Llama() does not name itself."""

    split_mode: int
    main_gpu: int
    tensor_split: list[float] | None
    vocab_only: bool
    use_mmap: bool
    use_mlock: bool
    kv_overrides: dict[str, bool | int | float | str] | None
    seed: int
    n_batch: int
    n_ubatch: int
    rope_scaling_type: int | None
    pooling_type: int
    attention_type: int
    rope_freq_base: float
    rope_freq_scale: float
    yarn_ext_factor: float
    yarn_attn_factor: float
    yarn_beta_fast: float
    yarn_beta_slow: float
    yarn_orig_ctx: int
    offload_kqv: bool
    op_offload: bool | None
    swa_full: bool | None
    no_perf: bool
    last_n_tokens_size: int
    lora_base: str | None
    lora_scale: float
    numa: bool | int
    chat_format: str | None
    chat_handler: LlamaChatCompletionHandler | None
    draft_model: LlamaDraftModel | None
    tokenizer: BaseLlamaTokenizer | None
    spm_infill: bool
    verbose: bool
