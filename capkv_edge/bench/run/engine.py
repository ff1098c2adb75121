"""A model and the contexts that measurements open on it, through llama.cpp's C API."""

import os
from functools import cached_property

import llama_cpp

from ... import _lib, _log, devices, models, threads
from ..._upstream import LlamaModel
from ...config import CapkvConfig, cache_type
from ...context import open_context
from ...kv import KvCache
from ...template import ChatTemplate
from ...vocab import Vocab
from .setups import Setup
from .stream import Stream

#: variables of chat templates: answers without thinking first, and the same prompt on any day
_VARIABLES = dict(enable_thinking=False, date_string="1 Jan 2026")

class Engine:
    """A loaded model.

    Args:
        model: path of a GGUF file, or "demo".
        n_threads: CPU threads, for reading and decoding; None is threads.default_count().
        n_gpu_layers: layers on the GPU, -1 is all; None is all where there is a GPU.

    Raises:
        OSError: the model file does not exist or cannot be read.
        ValueError: the file is no model.
    """

    def __init__(self, model, *, n_threads=None, n_gpu_layers=None):
        self.path = models.resolve(model)
        models.check_file(self.path)
        _lib.load()
        n_gpu_layers = devices.default_gpu_layers() if n_gpu_layers is None else n_gpu_layers
        self.n_threads, self.n_gpu_layers = n_threads or threads.default_count(), n_gpu_layers
        _log.forget()
        _log.show(False)
        llama_cpp.llama_backend_init()
        self._sizes = {}  # bytes of a token by type
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers if n_gpu_layers >= 0 else 0x7FFFFFFF
        try:
            self.model = LlamaModel(path_model=os.fspath(self.path), params=params, verbose=False)
        except ValueError:
            raise ValueError(f"cannot load {self.path}: {_log.reason()}{devices.advice(n_gpu_layers)}") from None
        self.n_vocab, self.n_ctx_train = self.model.n_vocab(), self.model.n_ctx_train()
        self.type = self.model.desc()
        self._vocab = Vocab(self.model.model)
        #: the token that a text begins with, or None
        self.bos = self._vocab.bos if self._vocab.adds_bos else None

    def close(self) -> None:
        """Free the model, after its streams were closed. Safe to call twice."""
        self.model.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @cached_property
    def hash(self) -> str:
        """The fingerprint of the model file (models.fingerprint)."""
        return models.fingerprint(self.path)

    # --- text ---

    def tokenize(self, text: str, special: bool = False) -> list:
        """Token ids of a text, without a BOS token. special=True turns the markers of chat templates into control tokens."""
        return self._vocab.tokens(text.encode(), special)

    def detokenize(self, tokens) -> str:
        """The text of token ids. Bytes that are no UTF-8 become U+FFFD."""
        return self.model.detokenize(list(tokens)).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """What a token adds to a text: bytes; nothing for a control token."""
        return self._vocab.piece(token)

    def is_eog(self, token: int) -> bool:
        """Whether the model ends its reply with this token."""
        return self._vocab.is_eog(token)

    def chat(self, messages: list, add_generation_prompt: bool = True) -> str:
        """Messages as the model's chat template (ChatML where it has none) renders them. Raises ValueError where it fails."""
        return self._template.render(messages, add_generation_prompt, **_VARIABLES)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.model.metadata(), self._vocab)

    # --- contexts ---

    def open(self, setup: Setup, n_ctx: int, n_batch: int | None = None, n_more: int = 0, repeats: bool = False) -> Stream:
        """A new, empty context for one sequence of up to n_ctx tokens, and n_more that do not count for "=TYPE" and bytes_full.
        repeats: for Stream.repeat().

        Raises:
            ValueError: the model cannot have this context; names the setup and the reason.
        """
        setup = setup.for_context(n_ctx, self.bytes_per_token)
        return Stream(self, setup, n_ctx, n_batch, n_more, repeats)

    def make_context(self, setup: Setup, n_ctx: int, n_batch: int, n_seq_max: int = 1):
        """The `llama_context *` for a resolved setup, whose sequences share the cells; the caller frees it. Raises ValueError as
        open()."""
        kind = cache_type(setup.type, f"setup = {setup.name}: type")
        try:
            return open_context(
                self.model.model,
                setup.config() if setup.on else CapkvConfig(),
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_ubatch=min(n_batch, 512),
                n_seq_max=n_seq_max,
                kv_unified=n_seq_max > 1,
                n_threads=setup.n_threads or self.n_threads,
                type_k=kind,
                type_v=kind,
                flash_attn_type=llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
                offload_kqv=self.n_gpu_layers != 0,
                no_perf=True,
            )
        except ValueError as err:
            raise ValueError(f"no context for {self.path.name} with {setup.name}: {err}") from None

    @cached_property
    def cache_device(self) -> str:
        """The devices that hold the caches: "CPU", or with the share of each "CUDA0 (75%), CPU (25%)".

        Raises:
            ValueError: the model cannot have a context.
        """
        llama_cpp.llama_free(self.make_context(Setup(), 256, 32))
        return devices.describe(_log.cache_buffers())

    def bytes_per_token(self, kind: str) -> float:
        """Bytes of K and V of one token in a full cache of that type, over the layers that a budget governs.

        Raises:
            ValueError: a model that cannot have a budget.
        """
        if kind not in self._sizes:
            n_ctx = 1024
            ctx = self.make_context(Setup("streaming", 128, kind), n_ctx, 128)
            try:
                self._sizes[kind] = KvCache(ctx).stats().bytes_full / n_ctx
            finally:
                llama_cpp.llama_free(ctx)
        return self._sizes[kind]
