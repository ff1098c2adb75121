"""`Llama`: llama_cpp's class in front of a KV cache of fixed size."""

from __future__ import annotations

import ctypes
import difflib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as native
from llama_cpp.llama import LlamaState

from .. import _log, context, devices, models, rpc, threads
from .._upstream import NO_CONTEXT, NO_MODEL, UpstreamLlama
from ..config import CACHE_TYPES, PLAIN_TYPES, CapkvConfig, is_auto, options
from ..kv import KvCache, remarks
from ..turns import changes_text, uses_native
from . import saved_state
from .completions import Completions
from .drafts import ShortDrafts
from .focus import Focus
from .reading import Reading
from .session import Sessions
from .streams import Streams

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .keywords import Keywords

_UPSTREAM = inspect.signature(llama_cpp.Llama.__init__).parameters


def _signature() -> inspect.Signature:
    """Of Llama(): the keywords of its own, kv_NAME for each option of a budget, and the others of llama_cpp.Llama."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    *named, _ = inspect.signature(Llama.__init__).parameters.values()
    kv = [inspect.Parameter(f"kv_{name}", keyword, default=None) for name in options()]
    own = {parameter.name for parameter in named}
    others = [p.replace(kind=keyword) for p in _UPSTREAM.values() if p.name not in own and p.kind != p.VAR_KEYWORD]
    return inspect.Signature(named + kv + others)


def _keywords_help() -> str:
    lines = [f"kv_{name}: {row.help} (default: {row.default}; allowed: {row.range})" for name, row in options().items()]
    return "Open a model. Beside the keywords of llama_cpp.Llama:\n\n" + "\n".join(lines)


def _refuse_unknown(given: dict[str, Any]) -> None:
    known = list(inspect.signature(Llama).parameters)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"Llama() got an unknown keyword {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))


class Llama(Completions, Streams, Sessions, Focus, Reading, UpstreamLlama):
    """A llama.cpp model whose KV cache keeps kv_budget tokens per head.

    Takes the keywords of llama_cpp.Llama and:

        kv_budget: tokens kept per KV head, or a memory size ("256MiB"), or a share ("10%") of n_ctx, without an end of
            the trained length; or "auto", the largest that fits the memory of the devices that hold the cache (memory.fit_budget()).
            0 is off; None leaves it to the environment (LLAMA_ARG_KV_BUDGET), where unset is off.
        kv_policy and so on, one for each option (`help(Llama.__init__)` says what they are): None leaves it to the
            environment (LLAMA_ARG_KV_POLICY), where unset is the default.
        rpc_servers: ggml-rpc-servers that hold layers of the model with their cache, "HOST:PORT,HOST:PORT" or a sequence of "HOST:PORT".
            Layers are divided over them and the GPUs of this machine by free memory, or as tensor_split says.

    model_path may also be "demo" or "hf.co/OWNER/REPO:QUANT" (models.resolve()). Three defaults differ: n_threads and n_threads_batch are
    the number of physical cores that the process may use, n_gpu_layers is all layers where there is a GPU, and flash attention is on with
    a budget or a quantized V.
    With a budget and no type_k and type_v, K and V are in kv_type, q8_0 by default, or in f16 where the model's heads or the device do not
    allow it.
    With a budget and no n_ctx, or n_ctx=0, the context has no end (is_endless), if the model can read on past its trained length; with an
    n_ctx it ends there. With a budget, logits_all=True keeps the logits of the last 64 tokens only, which is enough for `logprobs` of
    the generated tokens. Drafts are cut to n_batch - 1 tokens.

    Threads may share it. A call that changes the text waits until that of another thread has ended; figures and pins wait for one
    batch. A stream whose Llama has read something else meanwhile raises RuntimeError at its next token. `with llm.lock:` around
    a stream, or around several calls that belong together, keeps other threads out until the end.

    After close(), which waits for one batch too, all methods that need the model raise RuntimeError; `with Llama(...) as llm:` closes it.

    Raises:
        TypeError: an unknown keyword.
        ValueError: an option out of range, a file that is no GGUF model or no adapter of this model, a model that cannot have a
            budget, or kv_budget="auto" and none that fits.
        OSError: a model or LoRA file that does not exist or cannot be read, or an RPC server that cannot be used.
    """

    _no_alloc = False  # lay everything out and allocate nothing

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        n_ctx: int | None = None,
        n_gpu_layers: int | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        flash_attn: bool | None = None,
        type_k: int | None = None,
        type_v: int | None = None,
        lora_path: str | os.PathLike[str] | None = None,
        logits_all: bool = False,
        embedding: bool = False,
        rpc_servers: str | Sequence[str] | None = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        more: dict[str, Any] = {**keywords}
        self._kv_given = {name: more.pop(f"kv_{name}", None) for name in options()}
        _refuse_unknown(more)
        if is_auto(self._kv_given["budget"]):
            from . import memory  # it opens a Llama to measure one

            named: dict[str, Any] = dict(n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, flash_attn=flash_attn, type_k=type_k, type_v=type_v)
            named["rpc_servers"] = rpc_servers
            others = {f"kv_{name}": value for name, value in self._kv_given.items()}
            self._kv_given["budget"] = memory.fit_budget(model_path, **named, **others, **more).budget

        chooses_type = type_k is None and type_v is None
        wanted = CapkvConfig.from_env(**self._kv_given | ({} if chooses_type else {"type": "f16"}))
        if wanted.on:
            if flash_attn is False:
                raise ValueError(f"flash_attn = False: with kv_budget = {wanted.budget} allowed is True (or leave it out)")
            if embedding:
                raise ValueError(f"embedding = True: with kv_budget = {wanted.budget} allowed is False")
        needs_flash = wanted.on or type_v not in (None, *PLAIN_TYPES)
        if flash_attn is False and needs_flash:
            raise ValueError("flash_attn = False: with a quantized type_v allowed is True (or leave it out)")
        if n_ctx is None:
            n_ctx = 0 if wanted.on else _UPSTREAM["n_ctx"].default
        self._no_n_ctx = wanted.on and n_ctx == 0

        self.n_rereads = 0
        self.kv_config = None
        self.flash_attn_by_itself = flash_attn is None and needs_flash
        self._kept_logits, self._tally = {}, None
        self._wants_logits = logits_all
        self._all_scores = logits_all and not wanted.on

        model_path = os.fspath(models.resolve(model_path))
        models.check_file(model_path)
        if lora_path:
            lora_path = os.fsdecode(lora_path)
            models.check_file(lora_path, "LoRA")
        self._rpc_servers = rpc_servers
        self._devices = rpc.devices(rpc_servers) if rpc_servers else None
        self._open(
            wanted,
            model_path=model_path,
            n_ctx=n_ctx,
            n_gpu_layers=devices.default_gpu_layers() if n_gpu_layers is None else n_gpu_layers,
            n_threads=n_threads or threads.default_count(),
            n_threads_batch=n_threads_batch or threads.default_count(),
            flash_attn=needs_flash if flash_attn is None else flash_attn,
            type_k=type_k,
            type_v=type_v,
            lora_path=lora_path,
            logits_all=self._all_scores,
            embedding=embedding,
            **more,
        )
        if self.is_endless:
            now = self.kv_stats()
            self.n_batch = min(self.n_batch, now.n_cells - now.config.budget)
        self._shrink_batch()
        if not self._all_scores:
            self.scores = np.empty((0, self.n_vocab()), dtype=np.single)  # upstream's has n_batch rows that nothing writes
            self._gives_logprobs = self._gives_logprobs or self._wants_logits
        if self.verbose:
            for remark in (f"the cache is on {self.cache_device}", *remarks(self)):
                print(f"Llama: {remark}", file=sys.stderr)

    def _open(self, wanted: CapkvConfig, **upstream: Any) -> None:
        try:
            with context.next_budget(wanted):
                super().__init__(**upstream)
        except ValueError as err:
            self.close()
            advice = devices.advice(upstream["n_gpu_layers"])
            if str(err).startswith(NO_CONTEXT):
                name = os.path.basename(upstream["model_path"])
                raise ValueError(f"no context for {name}: {context.reason()}{advice}") from None
            if str(err).startswith(NO_MODEL):
                raise ValueError(f"cannot load {upstream['model_path']}: {_log.reason()}{advice}") from None
            raise
        except BaseException:
            self.close()
            raise
        self._buffers = _log.cache_buffers()
        if self.lora_path and not self._has_lora():
            self.close()
            raise ValueError(f"cannot load the LoRA file {self.lora_path}: {_log.reason()}")
        self.kv_config = KvCache(self.ctx).config
        if self.kv_config and upstream["type_k"] is None and upstream["type_v"] is None:
            self._context_params.type_k = self._context_params.type_v = CACHE_TYPES[self.kv_config.type]

    @property
    def cache_device(self) -> str:
        """The devices that hold the cache: "CPU", or with the share of each "CUDA0 (75%), CPU (25%)"."""
        return devices.describe(self._buffers)

    @property
    def model_params(self) -> Any:
        """As upstream's, with the devices of the RPC servers."""
        return self._model_params

    @model_params.setter
    def model_params(self, params: Any) -> None:
        params.no_alloc = self._no_alloc
        if self._devices:
            params.devices = ctypes.addressof(self._devices)
        self._model_params = params

    @property
    def context_params(self) -> Any:
        """As upstream's. Where flash attention was not asked for it is "auto", which upstream has no option for: llama.cpp then
        looks whether the device supports it. And n_ctx stays 0 with a budget, where upstream sets it to the trained length."""
        if self._no_n_ctx:
            self._context_params.n_ctx = 0
        if self.flash_attn_by_itself:
            self._context_params.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_AUTO
        return self._context_params

    @context_params.setter
    def context_params(self, params: Any) -> None:
        self._context_params = params

    @property
    def draft_model(self) -> Any:
        """The draft model; its drafts are cut to n_batch - 1 tokens."""
        return self._drafts

    @draft_model.setter
    def draft_model(self, model: Any) -> None:
        self._drafts = None if model is None else ShortDrafts(getattr(model, "model", model), lambda: self.n_batch - 1)

    # --- upstream's methods that threads share ---

    close = uses_native(UpstreamLlama.close)
    tokenize, detokenize = uses_native(UpstreamLlama.tokenize), uses_native(UpstreamLlama.detokenize)
    n_ctx, n_embd, n_vocab = uses_native(UpstreamLlama.n_ctx), uses_native(UpstreamLlama.n_embd), uses_native(UpstreamLlama.n_vocab)
    token_bos, token_eos = uses_native(UpstreamLlama.token_bos), uses_native(UpstreamLlama.token_eos)
    token_nl, pooling_type = uses_native(UpstreamLlama.token_nl), uses_native(UpstreamLlama.pooling_type)
    embed, create_embedding = changes_text(UpstreamLlama.embed), changes_text(UpstreamLlama.create_embedding)
    create_chat_completion = changes_text(UpstreamLlama.create_chat_completion)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- state ---

    @changes_text
    def save_state(self) -> LlamaState:
        """All that is needed to go on from here, in upstream's class; about as large as the cells in use."""
        return super().save_state() if self._all_scores else saved_state.save(self)

    @changes_text
    def load_state(self, state: LlamaState) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: the state does not fit; the message has the reason. The Llama is empty then, and can be used.
        """
        self._n_changes += 1
        return super().load_state(state) if self._all_scores else saved_state.load(self, state)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        state |= dict(draft_model=self._drafts and self._drafts.model, logits_all=self._wants_logits, rpc_servers=self._rpc_servers)
        if self.flash_attn_by_itself:
            state["flash_attn"] = None
        return {**state, **{f"kv_{name}": value for name, value in self._kv_given.items()}}


Llama.__init__.__signature__ = _signature()  # type: ignore[attr-defined]
Llama.__init__.__doc__ = _keywords_help()
