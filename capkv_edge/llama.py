"""`Llama`: llama_cpp's class in front of a KV cache of fixed size.

Upstream assumes in several places that a token's index, its position and its cell are one number, and sizes arrays by n_ctx.
Here the index is the position; cells are the business of the native library, and nothing but token ids grows with the text.
"""

import difflib
import inspect
import os
import sys

import llama_cpp
import numpy as np
from llama_cpp import _internals as internals
from llama_cpp.llama import LlamaState

from . import _lib, _log, _state, logits, models, stats
from .budget import KvBudget
from .config import CapkvConfig
from .session import Sessions

_UPSTREAM = inspect.signature(llama_cpp.Llama.__init__).parameters
_GENERATE = inspect.signature(llama_cpp.Llama.generate)
_COMPLETION = inspect.signature(llama_cpp.Llama.create_completion)


def _refuse_unknown(given: dict, known: list) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"Llama() got an unknown keyword {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))


class Llama(KvBudget, Sessions, llama_cpp.Llama):
    """A llama.cpp model whose KV cache keeps kv_budget tokens per head.

    Takes the keywords of llama_cpp.Llama and:

        kv_budget: tokens kept per KV head, or a memory size ("256MiB"), or a share of n_ctx ("10%"). 0 is off;
            None leaves it to the environment (LLAMA_ARG_KV_BUDGET), where unset is off.
        kv_policy, kv_sink, kv_recent, kv_headroom, kv_tau, kv_novelty, kv_seed: see CapkvConfig; None is the
            environment, then the default.
        kv_untested: True runs an architecture that was never tried with evictions.

    With a budget, flash attention is on by itself, n_ctx left out is the model's trained length, and logits_all=True keeps
    the logits of the last 64 tokens, enough for `logprobs` of what is generated.

    Raises:
        TypeError: an unknown keyword.
        ValueError: an option out of range, a file that is no GGUF model, or a model that cannot have a budget.
        OSError: a model file that is missing or may not be read.
    """

    def __init__(
        self,
        model_path,
        *,
        n_ctx=None,
        flash_attn=None,
        logits_all=False,
        embedding=False,
        kv_budget=None,
        kv_policy=None,
        kv_sink=None,
        kv_recent=None,
        kv_headroom=None,
        kv_tau=None,
        kv_novelty=None,
        kv_seed=None,
        kv_untested=None,
        **upstream,
    ):
        mine = inspect.signature(Llama.__init__).parameters
        _refuse_unknown(upstream, [name for name in (*_UPSTREAM, *mine) if name not in ("self", "kwargs", "upstream")])

        self._kv_given = dict(
            budget=kv_budget,
            policy=kv_policy,
            sink=kv_sink,
            recent=kv_recent,
            headroom=kv_headroom,
            tau=kv_tau,
            novelty=kv_novelty,
            seed=kv_seed,
            untested=kv_untested,
        )
        wanted = CapkvConfig.from_env(**self._kv_given)
        if wanted.on:
            if flash_attn is False:
                raise ValueError(f"flash_attn = False: with kv_budget = {wanted.budget} allowed is True (or leave it out)")
            if embedding:
                raise ValueError(f"embedding = True: with kv_budget = {wanted.budget} allowed is False")
        flash_attn = wanted.on if flash_attn is None else flash_attn
        if n_ctx is None:
            n_ctx = 0 if wanted.on else _UPSTREAM["n_ctx"].default  # 0: the model's trained length

        #: times that a prompt shared only evicted tokens with what was read before, so that all of it was read again
        self.n_rereads = 0
        self.kv_config = None
        self._kept_logits = {}
        self._wants_logits = logits_all
        self._all_scores = logits_all and not wanted.on

        model_path = os.fspath(model_path)
        models.check_file(model_path)
        self._open(
            wanted,
            model_path=model_path,
            n_ctx=n_ctx,
            flash_attn=flash_attn,
            logits_all=self._all_scores,
            embedding=embedding,
            **upstream,
        )
        self._shrink()

    def _open(self, wanted: CapkvConfig, **upstream) -> None:
        ffi, lib = _lib.load()
        _log.forget()
        lib.capkv_set_next_params(wanted.params)
        try:
            super().__init__(**upstream)
        except ValueError as err:
            self.close()
            if str(err) == "Failed to create llama_context":
                name = os.path.basename(upstream["model_path"])
                raise ValueError(f"no context for {name}: {_log.reason(_lib.last_error())}") from None
            if str(err).startswith("Failed to load model"):
                raise ValueError(f"cannot load {upstream['model_path']}: {_log.reason()}") from None
            raise
        except BaseException:
            self.close()
            raise
        finally:
            lib.capkv_set_next_params(ffi.NULL)
        self.kv_config = stats.config_of(self._kv_ctx)

    def _shrink(self) -> None:
        # upstream's batch has room for n_ctx sequence ids per token, its scores for n_batch rows that nothing writes
        self._batch.close()
        self._batch = internals.LlamaBatch(n_tokens=self.n_batch, embd=0, n_seq_max=1, verbose=self.verbose)
        self._stack.callback(self._batch.close)
        if not self._all_scores:
            self.scores = np.empty((0, self._n_vocab), dtype=np.single)
            self._logits_all = self._logits_all or self._wants_logits

    # --- reading ---

    def _drop_unread(self) -> None:
        # the native sequence may be longer than n_tokens: after a reply that was cut short, or once n_tokens was set back
        if not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1) and self.kv_config is not None:
            raise RuntimeError(
                f"cannot go back to token {self.n_tokens}: from {self.kv_stats().pos_tail} on all are held; reset() first"
            )

    def reset(self) -> None:
        """Forget all that was read; the cache is empty at once."""
        super().reset()
        self._kept_logits.clear()
        if self._ctx.memory is not None:
            self._ctx.kv_cache_seq_rm(-1, 0, -1)

    def eval(self, tokens) -> None:
        """Read tokens: any number of them with a budget, whatever n_ctx is.

        Raises:
            RuntimeError: the decode failed (tokens of the batches before it stay read), or n_tokens was set back to where
                tokens have been evicted.
        """
        if self._all_scores:
            return super().eval(tokens)
        self._drop_unread()
        if len(self.input_ids) < self.n_tokens + len(tokens):
            self.input_ids = np.resize(self.input_ids, max(2 * len(self.input_ids), self.n_tokens + len(tokens)))
        for i in range(0, len(tokens), self.n_batch):
            batch = tokens[i : i + self.n_batch]
            n = len(batch)
            self._batch.set_batch(batch=batch, n_past=self.n_tokens, logits_all=self.draft_model is not None)
            self._ctx.decode(self._batch)
            self.input_ids[self.n_tokens : self.n_tokens + n] = batch
            self.n_tokens += n
            self._requires_eval = False
            if self._logits_all:
                logits.keep(self, self._kept_logits, n)

    def sample(self, *args, **kwargs) -> int:
        """As upstream's. Raises RuntimeError while no logits are there (nothing was read since reset() or load_state())."""
        if self._requires_eval:
            raise RuntimeError("there are no logits to sample from: eval() a token first")
        return super().sample(*args, **kwargs)

    def generate(self, tokens, *args, **kwargs):
        """As upstream's. A prompt that goes back to where tokens were evicted is read anew, and n_rereads counts it."""
        tokens = list(tokens)
        self._n_prompt = len(tokens)
        if self.kv_config is not None and _GENERATE.bind(self, tokens, *args, **kwargs).arguments.get("reset", True):
            self._reset_if_evicted(tokens)
        yield from super().generate(tokens, *args, **kwargs)

    def _reset_if_evicted(self, tokens: list) -> None:
        n = min(self.n_tokens, len(tokens))
        differ = np.flatnonzero(self.input_ids[:n] != np.asarray(tokens[:n], dtype=np.intc))
        n_same = int(differ[0]) if len(differ) else n
        if n_same == self.n_tokens and (n_same < len(tokens) or not self._requires_eval):
            return
        pos_tail = self.kv_stats().pos_tail
        n_reused = min(n_same, len(tokens) - 1)
        if 0 < n_reused < pos_tail:
            self.n_rereads += 1
            if self.verbose:
                print(
                    f"Llama.generate: the prompt shares {n_same} tokens, all are held only from {pos_tail} on: "
                    f"reading all {len(tokens)} again",
                    file=sys.stderr,
                )
            self.reset()

    # --- logits ---

    @property
    def _scores(self):
        return super()._scores if self._all_scores else logits.LogitRows(self, self._kept_logits)

    def create_completion(self, prompt, *args, **kwargs):
        """As upstream's; with a budget, `logprobs` needs logits_all=True and excludes `echo`.

        Raises:
            ValueError: logprobs with echo; else as upstream.
        """
        given = _COMPLETION.bind(self, prompt, *args, **kwargs).arguments
        if self._all_scores or given.get("logprobs") is None:
            return super().create_completion(prompt, *args, **kwargs)
        if given.get("echo"):
            raise ValueError(
                "echo = True: with logprobs and a KV budget allowed is False (the logits of the prompt are not kept)"
            )
        given.pop("self")
        streamed = super().create_completion(**{**given, "stream": True})
        if given.get("stream"):
            return streamed
        chunks = list(streamed)
        return logits.merge(chunks, self._n_prompt)

    # --- state ---

    def save_state(self) -> LlamaState:
        """All that is needed to go on from here, as upstream's class; about as large as the cells in use."""
        return super().save_state() if self._all_scores else _state.save(self)

    def load_state(self, state: LlamaState) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: a state that does not fit, with the reason; the object is empty then, and stays usable.
        """
        return super().load_state(state) if self._all_scores else _state.load(self, state)

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        return {**state, "logits_all": self._wants_logits, **{f"kv_{name}": value for name, value in self._kv_given.items()}}

    def close(self) -> None:
        """Free the model and its context; safe at any time, also twice."""
        stack = getattr(self, "_stack", None)
        if stack is not None:
            stack.close()
