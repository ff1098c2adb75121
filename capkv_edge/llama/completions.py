"""Completions with log probabilities and a budget: only the logits of the last tokens are kept, so they are collected on the way."""

from __future__ import annotations

import codecs
import inspect
from collections import deque
from collections.abc import Generator
from typing import Any

import llama_cpp
import numpy as np

from ..turns import changes_text, uses_native
from ..vocab import Vocab
from . import logits
from .parts import Parts

_COMPLETION = inspect.signature(llama_cpp.Llama.create_completion)


class Tally:
    """The tokens of a completion while they are generated: their bytes and their log probabilities.

    A character may be split over tokens. It counts to the token that completes it, so that the texts of all tokens, joined, are
    the text of the completion.
    """

    def __init__(self, llm: Any, n_top: int, n_chars: int):
        self.llm, self._n_top = llm, n_top
        self.n_prompt = self.n_tokens = 0  #: tokens of the prompt, and tokens generated
        self._n_chars = n_chars  # characters before the next token
        self._n_before = 0 if n_chars else 1  # chunks without a token: upstream begins an empty prompt with a BOS token
        self._pending: list[tuple[int, bytes, Any]] = []  # (token, bytes, log probabilities [n_vocab]) in no chunk yet
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def add(self, token: int) -> None:
        """Add a token that was just sampled."""
        llm = self.llm
        if Vocab(llm.model).is_eog(token):
            return
        row = llm._logit_rows()[self.n_prompt + self.n_tokens - 1]
        self._pending.append((token, llm.detokenize([token]), llm.logits_to_logprobs(row)))
        self.n_tokens += 1

    def cover(self, text: str) -> tuple[str, dict[str, Any] | None]:
        """The text and the `logprobs` of the tokens in one chunk of upstream's stream.

        Args:
            text: of the chunk. A chunk holds all tokens of a split character. Only at the end of a stream upstream sends token
                by token, drops what is no whole character, and cuts the last token at a stop sequence.
        """
        if self._n_before:
            self._n_before -= 1
            return "", None
        data = b""
        for i, (_, piece, _) in enumerate(self._pending, start=1):
            data += piece
            if data == text.encode():
                return self._take([piece for _, piece, _ in self._pending[:i]])
        piece = self._pending[0][1]
        ends = (n for n in range(len(piece), -1, -1) if piece[:n].decode("utf-8", "ignore") == text)
        return self._take([piece[: next(ends, len(piece))]])

    def _take(self, pieces: list[bytes]) -> tuple[str, dict[str, Any]]:
        found: dict[str, list[Any]] = dict(tokens=[], text_offset=[], token_logprobs=[], top_logprobs=[])
        for piece in pieces:
            token, _, logprobs = self._pending.pop(0)
            text = self._decoder.decode(piece)
            top = np.argsort(-logprobs, kind="stable")[: self._n_top].tolist()
            names = {self.llm.detokenize([i]).decode("utf-8", "backslashreplace"): float(logprobs[i]) for i in top if i != token}
            found["tokens"].append(text)
            found["text_offset"].append(self._n_chars)
            found["token_logprobs"].append(float(logprobs[token]))
            found["top_logprobs"].append({**names, text: float(logprobs[token])})
            self._n_chars += len(text)
        return "".join(found["tokens"]), found


def with_logprobs(stream: Any, tally: Tally) -> Generator[dict[str, Any], None, None]:
    """The chunks of upstream's stream with the log probabilities of their tokens, and with all characters."""
    tally.llm._tally = tally  # generate() adds the tokens to it
    try:
        for chunk in stream:
            choice = chunk["choices"][0]
            text, logprobs = "", None
            if choice["finish_reason"] is None:
                text, logprobs = tally.cover(choice["text"])
            yield {**chunk, "choices": [{**choice, "text": text, "logprobs": logprobs}]}
    finally:
        if tally.llm._tally is tally:
            tally.llm._tally = None


def merge(chunks: list[dict[str, Any]], tally: Tally) -> dict[str, Any]:
    """The completion that the chunks of with_logprobs() make up."""
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"] is not None]
    logprobs = {
        key: [value for part in parts for value in part[key]]
        for key in ("tokens", "text_offset", "token_logprobs", "top_logprobs")
    }
    n_prompt, n = tally.n_prompt, tally.n_tokens
    return {
        **chunks[-1],
        "choices": [
            {
                "text": "".join(chunk["choices"][0]["text"] for chunk in chunks),
                "index": 0,
                "logprobs": logprobs,
                "finish_reason": chunks[-1]["choices"][0]["finish_reason"],
            }
        ],
        "usage": {"prompt_tokens": n_prompt, "completion_tokens": n, "total_tokens": n_prompt + n},
    }


class Completions(Parts):
    """Mixed into Llama; needs its `_kept_logits`, `_tally`, `_all_scores`, `_need_logits()`, and turns.Shared."""

    def _logit_rows(self) -> Any:
        return None if self._all_scores else logits.LogitRows(self, self._kept_logits)

    @property
    @uses_native
    def eval_logits(self) -> deque[list[float]]:
        """Logits as upstream's: a deque of rows [n_vocab]. With logits_all=True they are of the last tokens (with a budget, of 64
        of them), else of the newest token. Empty after reset(). Raises RuntimeError where sample() would."""
        if self._all_scores or not self.n_tokens:
            return super().eval_logits
        self._need_logits()
        kept = {i: row for i, row in self._kept_logits.items() if i < self.n_tokens} or {0: logits.row_of(self, -1)}
        return deque(kept[i].tolist() for i in sorted(kept))

    @changes_text
    def create_completion(self, prompt: str | list[int], *args: Any, **kwargs: Any) -> Any:
        """As upstream's; with a budget, `logprobs` needs logits_all=True and excludes `echo`.

        With `logprobs`, a character that is split over tokens counts to the token that completes it. In a context without an end,
        a completion that is to have no limit (max_tokens None or 0) ends at the model's trained length.

        Raises:
            ValueError: logprobs with echo, or an empty prompt for a model without a token to begin with; else as upstream.
        """
        given = _COMPLETION.bind(self, prompt, *args, **kwargs).arguments
        given.pop("self")
        if not len(prompt) and given.get("suffix") is None:
            begins = isinstance(prompt, str) and Vocab(self.model).adds_bos
            if not begins:
                raise ValueError(f"prompt = {prompt!r}: allowed is at least one token (the model puts none in front by itself)")
        if self.is_endless and (given.get("max_tokens", _COMPLETION.parameters["max_tokens"].default) or 0) <= 0:
            given["max_tokens"] = llama_cpp.llama_model_n_ctx_train(self.model)
        is_stream = given.get("stream")
        if self._all_scores or given.get("logprobs") is None:
            found: Any = super().create_completion(**given)
            return self._steps(found) if is_stream else found
        if given.get("echo"):
            raise ValueError(
                "echo = True: with logprobs and a KV budget allowed is False (the logits of the prompt are not kept)"
            )
        if not self._gives_logprobs:
            raise ValueError("logprobs is not supported for models created with logits_all=False")
        n_top = given.pop("logprobs")
        tally = Tally(self, n_top, len(prompt))
        chunks = with_logprobs(super().create_completion(**{**given, "stream": True}), tally)
        return self._steps(chunks) if is_stream else merge(list(chunks), tally)
