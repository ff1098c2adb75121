"""The only module that touches private names of llama_cpp. When the pin moves, compare this table with the new release first.

| name | used for | would be replaced by |
|---|---|---|
| `llama_cpp._lib` | functions of ggml; the path of the loaded library | a public handle |
| `_logger.logger`, `_logger.set_verbose` | whether llama.cpp's log is shown | a public function that sets it |
| `_internals.suppress_stdout_stderr` | switched off: it redirects the descriptors of the process | an option for it |
| `llama.suppress_stdout_stderr` | the same, where it is imported to | the same |
| `_internals.LlamaModel` | a model that serves many contexts | a `Llama` without a context |
| `_internals.LlamaBatch` | a batch of `n_batch` tokens with one sequence id each | a batch of that size upstream |
| `"Failed to create llama_context"` | telling which step of opening a Llama failed | an exception of its own type |
| `"Failed to load model"` | the same | the same |
| `Llama._stack` | freeing everything, also after a constructor that failed | such a `close()` upstream |
| `Llama._ctx`, `Llama._batch` | decoding; removing tokens; the smaller batch | `Llama.eval()` without an array of scores |
| `Llama._model` | an error instead of a crash once it is freed | the same error upstream |
| `Llama._lora_adapter` | telling that a LoRA file did not load | an exception |
| `Llama._requires_eval` | whether there are logits to sample from | a public property |
| `Llama._logits_all` | `logprobs` without an array of scores | a `Llama` that asks for rows of logits |
| `Llama._scores` | gives upstream these rows | the same |
| `Llama._seed` | the seed in saved states | a getter beside `set_seed()` |
"""

import contextlib
from pathlib import Path

import llama_cpp
from llama_cpp import _internals, _logger, llama

#: how the ValueErrors of llama_cpp.Llama() begin
NO_CONTEXT, NO_MODEL = "Failed to create llama_context", "Failed to load model"

LlamaModel = _internals.LlamaModel
set_verbose = _logger.set_verbose


def log_level() -> int:
    """The least level of `logging` at which llama.cpp's log is shown."""
    return _logger.logger.level


def library():
    """libllama as llama_cpp has loaded it: a ctypes.CDLL."""
    return llama_cpp.llama_cpp._lib


def library_path() -> Path:
    """The file that library() was loaded from."""
    return Path(library()._name)


def keep_descriptors() -> None:
    """Stop llama_cpp from redirecting the descriptors of stdout and stderr while a model is opened.

    Two models that are opened at once would leave both descriptors at /dev/null. Nothing has to be hidden: llama.cpp writes to
    its log alone.
    """

    def leave_open(disable=True):
        return contextlib.nullcontext()

    llama.suppress_stdout_stderr = _internals.suppress_stdout_stderr = leave_open


class _Freed:
    """Stands in for the model and the context of a closed Llama, so that a call raises instead of using freed memory."""

    def __getattr__(self, name):
        raise RuntimeError("this Llama is closed")


class UpstreamLlama(llama_cpp.Llama):
    """llama_cpp.Llama with names of our own for what our Llama needs of its inside."""

    def _decode(self, tokens, all_logits: bool) -> None:
        """Decode one batch at position n_tokens: int [n], n at most n_batch. Logits are computed for the last token, or for all.

        Raises:
            RuntimeError: llama.cpp could not decode it.
        """
        self._batch.set_batch(batch=tokens, n_past=self.n_tokens, logits_all=all_logits)
        self._ctx.decode(self._batch)

    def _remove_from(self, pos: int) -> bool:
        """Remove the tokens from position pos on; False where the memory cannot."""
        return self._ctx.kv_cache_seq_rm(-1, pos, -1)

    def _shrink_batch(self) -> None:
        """Replace the batch, which has room for n_ctx sequence ids per token, by one with room for one."""
        self._batch.close()
        self._batch = _internals.LlamaBatch(n_tokens=self.n_batch, embd=0, n_seq_max=1, verbose=self.verbose)
        self._stack.callback(self._batch.close)

    def _has_lora(self) -> bool:
        """Whether the LoRA file was loaded. Upstream compares with None, but a file that is no adapter gives a null pointer."""
        if not self._lora_adapter:
            self._lora_adapter = None  # or upstream would free it
        return self._lora_adapter is not None

    @property
    def _has_logits(self) -> bool:
        """Whether there are logits after the last token."""
        return not self._requires_eval

    @_has_logits.setter
    def _has_logits(self, value: bool) -> None:
        self._requires_eval = not value

    @property
    def _gives_logprobs(self) -> bool:
        """Whether create_completion() accepts `logprobs`."""
        return self._logits_all

    @_gives_logprobs.setter
    def _gives_logprobs(self, value: bool) -> None:
        self._logits_all = value

    @property
    def _sampling_seed(self) -> int:
        return self._seed

    @property
    def _scores(self):
        rows = self._logit_rows()
        return super()._scores if rows is None else rows

    def _logit_rows(self):
        """What upstream reads in place of its array of scores, float32 [n_tokens, n_vocab]; None leaves it the array."""
        return None

    def close(self) -> None:
        """Free the model and its context; safe at any time, also twice."""
        stack = getattr(self, "_stack", None)
        if stack is not None:
            stack.close()
            self._ctx = self._model = self._batch = self.tokenizer_ = _Freed()
