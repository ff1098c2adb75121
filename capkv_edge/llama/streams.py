"""Streams for asyncio: the model runs in a thread, the event loop stays free, and whoever stops reading ends the generation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..turns import Cancelled, Shared

if TYPE_CHECKING:
    from llama_cpp import ChatCompletionRequestMessage, CreateChatCompletionStreamResponse, CreateCompletionStreamResponse

_Chunk = TypeVar("_Chunk")


class Streams(Shared):
    """Mixed into Llama; needs its create_completion() and create_chat_completion()."""

    create_completion: Callable[..., Any]
    create_chat_completion: Callable[..., Any]

    def create_completion_async(self, prompt: str | list[int], **options: Any) -> AsyncIterator[CreateCompletionStreamResponse]:
        """The chunks of create_completion(stream=True), for `async for`.

        Streams of one Llama run one after the other, in the order in which they were begun. One that is not read to its end (after
        `break`, or when its task is cancelled) stops within one batch; `await stream.aclose()` stops one that a variable still holds.

        Args:
            prompt: text or token ids.
            options: those of create_completion() but `stream`.

        Raises:
            ValueError: stream = False; else as create_completion().
        """
        return _in_thread(self, lambda: self.create_completion(prompt, **_streamed(options)))

    def create_chat_completion_async(
        self, messages: list[ChatCompletionRequestMessage], **options: Any
    ) -> AsyncIterator[CreateChatCompletionStreamResponse]:
        """The chunks of create_chat_completion(stream=True), for `async for`; else as create_completion_async()."""
        return _in_thread(self, lambda: self.create_chat_completion(messages, **_streamed(options)))


def _streamed(options: dict[str, Any]) -> dict[str, Any]:
    if not options.get("stream", True):
        raise ValueError(f"stream = {options['stream']}: allowed is True (or leave it out)")
    return {**options, "stream": True}


async def _in_thread(llm: Shared, start: Callable[[], Iterable[_Chunk]]) -> AsyncIterator[_Chunk]:
    """The chunks that start() gives, made in a thread that holds llm.lock from the first to the last of them."""
    loop = asyncio.get_running_loop()
    found: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    cancelled = threading.Event()

    def put(kind: str, value: Any = None) -> None:
        try:
            loop.call_soon_threadsafe(found.put_nowait, (kind, value))
        except RuntimeError:  # the loop is closed
            cancelled.set()

    def work() -> None:
        try:
            with llm.lock:
                if not cancelled.is_set():
                    llm._is_cancelled = cancelled.is_set
                    try:
                        for chunk in start():
                            put("chunk", chunk)
                    finally:
                        llm._is_cancelled = None
            put("end")
        except Cancelled:
            pass
        except BaseException as error:
            put("error", error)

    threading.Thread(target=work, name="capkv-stream").start()
    try:
        while True:
            kind, value = await found.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        cancelled.set()
