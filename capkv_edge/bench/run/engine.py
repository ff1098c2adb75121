"""One model and many contexts on it, through llama.cpp's C API: what all measurements read with."""

import os
from contextlib import ExitStack

import llama_cpp
from llama_cpp import _internals as internals
from llama_cpp._logger import set_verbose
from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, Jinja2ChatFormatter

from ... import _lib, _log, devices, models, stats, threads
from ...config import cache_type
from .setups import Setup
from .stream import Stream

#: what chat templates ask for: answers without thinking first, and the same prompt on any day
_TEMPLATE = dict(enable_thinking=False, date_string="1 Jan 2026")


class Engine:
    """A loaded model.

    Args:
        model: path of a GGUF file, or "demo".
        n_threads: CPU threads, for reading and decoding; None is threads.default_count().
        n_gpu_layers: layers on the GPU, -1 is all; None is all in a build with a GPU.

    Raises:
        OSError: a model file that is missing or may not be read.
        ValueError: a file that is no model.
    """

    def __init__(self, model, *, n_threads=None, n_gpu_layers=None):
        self.path = models.resolve(model)
        models.check_file(self.path)
        _lib.load()
        n_gpu_layers = devices.default_gpu_layers() if n_gpu_layers is None else n_gpu_layers
        self.n_threads, self.n_gpu_layers = n_threads or threads.default_count(), n_gpu_layers
        _log.forget()
        set_verbose(False)
        llama_cpp.llama_backend_init()
        self._stack, self._sizes, self._hash, self._formatter, self._device = ExitStack(), {}, None, None, None
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers if n_gpu_layers >= 0 else 0x7FFFFFFF
        try:
            self.model = internals.LlamaModel(path_model=os.fspath(self.path), params=params, verbose=False)
        except ValueError:
            raise ValueError(f"cannot load {self.path}: {_log.reason()}{devices.advice(n_gpu_layers)}") from None
        self._stack.callback(self.model.close)
        self.n_vocab, self.n_ctx_train = self.model.n_vocab(), self.model.n_ctx_train()
        self.type = self.model.desc()
        bos = self.model.token_bos()
        #: the token that a text begins with, or None
        self.bos = bos if bos != -1 and self.model.add_bos_token() else None

    def close(self) -> None:
        """Free the model; its streams have to be closed before."""
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def hash(self) -> str:
        """What tells the model file from any other (models.fingerprint)."""
        self._hash = self._hash or models.fingerprint(self.path)
        return self._hash

    # --- text ---

    def tokenize(self, text: str, special: bool = False) -> list:
        """Token ids of a text, without a begin-of-sequence token; special=True reads markers of chat templates as tokens."""
        return self.model.tokenize(text.encode(), add_bos=False, special=special)

    def detokenize(self, tokens) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self.model.detokenize(list(tokens)).decode("utf-8", "replace")

    def is_eog(self, token: int) -> bool:
        """Whether the model ends its reply with this token."""
        return llama_cpp.llama_vocab_is_eog(self.model.vocab, token)

    def chat(self, messages: list, add_generation_prompt: bool = True) -> str:
        """The model's chat template (ChatML where it has none) over messages; raises ValueError where the template fails."""
        if self._formatter is None:
            template = self.model.metadata().get("tokenizer.chat_template") or CHATML_CHAT_TEMPLATE
            eos, bos = (
                self.model.token_get_text(token) if token != -1 else ""
                for token in (self.model.token_eos(), self.model.token_bos())
            )
            self._formatter = [
                Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos, add_generation_prompt=add) for add in (False, True)
            ]
        try:
            return self._formatter[add_generation_prompt](messages=messages, **_TEMPLATE).prompt
        except Exception as err:  # whatever a template may do wrong, or refuse by raise_exception()
            raise ValueError(f"the model's chat template failed: {err}") from None

    # --- contexts ---

    def open(self, setup: Setup, n_ctx: int, n_batch: int | None = None) -> Stream:
        """A new, empty context of one sequence of up to n_ctx tokens.

        Raises:
            ValueError: the model can have no such context; names the setup and the reason.
        """
        setup = setup.for_context(n_ctx, self.bytes_per_token)
        return Stream(self, setup, n_ctx, n_batch)

    def make_context(self, setup: Setup, n_ctx: int, n_batch: int):
        """The `llama_context *` for a resolved setup; the caller frees it. Raises ValueError as open()."""
        ffi, lib = _lib.load()
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, n_batch, min(n_batch, 512), 1
        params.n_threads = params.n_threads_batch = self.n_threads
        params.type_k = params.type_v = cache_type(setup.type, f"setup = {setup.name}: type")
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.offload_kqv = self.n_gpu_layers != 0
        params.no_perf = True
        _log.forget()
        off = lib.capkv_default_params()
        lib.capkv_set_next_params(setup.config().params if setup.on else ffi.new("struct capkv_params *", off))
        try:
            ctx = llama_cpp.llama_init_from_model(self.model.model, params)
        finally:
            lib.capkv_set_next_params(ffi.NULL)
        if not ctx:
            raise ValueError(f"no context for {self.path.name} with {setup.name}: {_log.reason(_lib.last_error())}")
        return ctx

    @property
    def cache_device(self) -> str:
        """The devices that hold the caches: "CPU", or with the share of each "CUDA0 (75%), CPU (25%)".

        Raises:
            ValueError: the model can have no context.
        """
        if self._device is None:
            llama_cpp.llama_free(self.make_context(Setup(), 256, 32))
            self._device = devices.describe(_log.cache_buffers())
        return self._device

    def bytes_per_token(self, kind: str) -> float:
        """Bytes of K and V of one token in a full cache of that type, over the layers that a budget governs.

        Raises:
            ValueError: a model that cannot have a budget.
        """
        if kind not in self._sizes:
            n_ctx = 1024
            ctx = self.make_context(Setup("streaming", 128, kind), n_ctx, 128)
            try:
                found = stats.pointer(ctx)
                self._sizes[kind] = stats.stats_of(found, stats.config_of(found)).bytes_full / n_ctx
            finally:
                llama_cpp.llama_free(ctx)
        return self._sizes[kind]
