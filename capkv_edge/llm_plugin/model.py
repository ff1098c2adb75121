"""A plugin for the command `llm` (https://llm.datasette.io): `llm -m capkv/demo 'Hello!'`, `llm chat -m capkv/demo -o budget 512`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import llm
from pydantic import Field

from .. import models

if TYPE_CHECKING:
    from .. import Llama

BUDGET = 1024  # as capkv-chat's


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tell `llm` the models that are here, as `capkv-chat --list` names them: capkv/NAME."""
    for model in models.found():
        register(CapkvModel(model.name, os.fspath(model.path)))


class CapkvModel(llm.Model):
    """A GGUF file as a model of `llm`. It stays open between the turns of `llm chat`, and reads each turn once."""

    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        """What `-o` takes."""

        budget: int | str | None = Field(default=None, description=f"tokens kept per KV head, a size or a share (default: {BUDGET})")
        temperature: float | None = Field(default=None, ge=0, description="temperature of the sampling (default: 0.8)")
        top_p: float | None = Field(default=None, gt=0, le=1, description="share of the likeliest tokens to choose from")
        max_tokens: int | None = Field(default=None, ge=1, description="longest reply in tokens")
        seed: int | None = Field(default=None, description="seed of the sampling")

    def __init__(self, name: str, path: str):
        self.model_id, self._path = f"capkv/{name}", path
        self._llama: Llama | None = None
        self._budget: int | str = 0
        self._talk: object = None  # whose turns the cache holds

    def execute(self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None) -> Iterator[str]:
        """The reply in pieces; how much of the conversation the cache still holds is in the response's JSON."""
        try:
            llama = self._open(_options(prompt).budget or BUDGET)
            messages = _messages(prompt, conversation)
            if conversation is None or conversation is not self._talk:
                self._talk = conversation
                _begin(llama, messages)
            yield from _reply(llama, messages, _sampling(prompt), response)
            now = llama.kv_stats()
        except (OSError, RuntimeError, ValueError) as error:
            raise llm.ModelError(str(error)) from None
        response.response_json = {"kv": {"budget": now.config.budget, "held": now.n_used, "evicted": now.n_evicted}}

    def _open(self, budget: int | str) -> Llama:
        if self._llama is not None and self._budget != budget:
            self._llama.close()
            self._llama, self._talk = None, None
        if self._llama is None:
            from .. import Llama  # opens the libraries, which other commands of `llm` need not wait for

            self._llama, self._budget = Llama(self._path, kv_budget=budget, verbose=False), budget
        return self._llama


def _options(prompt: llm.Prompt) -> Any:
    return prompt.options  # of the class that the model declares


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _messages(prompt: llm.Prompt, conversation: llm.Conversation | None) -> list[dict[str, str]]:
    earlier: list[Any] = list(conversation.responses) if conversation is not None else []
    first = next((response.prompt.system for response in earlier if response.prompt.system), prompt.system)
    found = [_message("system", first)] if first else []
    for response in earlier:
        found += [_message("user", response.prompt.prompt), _message("assistant", response.text_or_raise())]
    return [*found, _message("user", prompt.prompt)]


def _begin(llama: Llama, messages: list[dict[str, str]]) -> None:
    """Empty the cache, and pin the system prompt that is read next."""
    from ..template import ChatTemplate, Turns
    from ..vocab import Vocab

    llama.reset()
    if messages[0]["role"] == "system":
        turns = Turns(ChatTemplate(llama.metadata, Vocab(llama.model)), messages[0]["content"])
        llama.pin(0, len(llama.tokenize(turns.first[0].encode(), special=True)))


def _sampling(prompt: llm.Prompt) -> dict[str, Any]:
    given = _options(prompt)
    schema = {"response_format": {"type": "json_object", "schema": prompt.schema}} if prompt.schema else {}
    found = dict(temperature=given.temperature, top_p=given.top_p, max_tokens=given.max_tokens, seed=given.seed)
    return schema | {"temperature": 0.8} | {name: value for name, value in found.items() if value is not None}


def _reply(llama: Llama, messages: list[dict[str, str]], sampling: dict[str, Any], response: llm.Response) -> Iterator[str]:
    n_prompt, end = None, None
    chunks: Any = llama.create_chat_completion(messages, stream=True, **sampling)  # type: ignore[arg-type]
    for chunk in chunks:
        choice = chunk["choices"][0]
        if n_prompt is None:
            n_prompt = llama.n_tokens  # the first piece is there: the prompt was read, and nothing else
        end = choice["finish_reason"] or end
        if piece := choice["delta"].get("content"):
            yield piece
    n_reply = llama.n_tokens - (n_prompt or 0) + (end == "length")  # the last token of a reply that was cut is not read
    response.set_usage(input=n_prompt, output=n_reply)
