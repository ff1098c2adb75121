"""A chat model for LangChain, and a chain over a text of any length: python examples/langchain_chat.py FILE [MODEL]

The chain goes through the text section by section, in one conversation; the cache keeps its size. Needs langchain-core.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from capkv_edge import Llama


class CapkvChat(BaseChatModel):
    """A Llama as a chat model of LangChain. Messages that continue the last call's are read from where they differ."""

    llm: Any
    options: dict[str, Any] = {}  #: of Llama.create_chat_completion(), for all calls

    @property
    def _llm_type(self) -> str:
        return "capkv-edge"

    def _call(self, messages: list[BaseMessage], stop: list[str] | None, more: dict, **mode: bool) -> Any:
        given = {**self.options, **more, **mode, "stop": stop or []}
        return self.llm.create_chat_completion(convert_to_openai_messages(messages), **given)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: CallbackManagerForLLMRun | None = None, **more: Any
    ) -> ChatResult:
        found = self._call(messages, stop, more)
        choice, usage = found["choices"][0], found["usage"]
        counts = dict(
            input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"], total_tokens=usage["total_tokens"]
        )
        reply = AIMessage(
            choice["message"]["content"],
            usage_metadata=counts,
            response_metadata=dict(finish_reason=choice["finish_reason"], n_evicted=self.llm.kv_stats().n_evicted),
        )
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: CallbackManagerForLLMRun | None = None, **more: Any
    ) -> Iterator[ChatGenerationChunk]:
        for part in self._call(messages, stop, more, stream=True):
            if piece := part["choices"][0]["delta"].get("content"):
                chunk = ChatGenerationChunk(message=AIMessageChunk(piece))
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk


def sections(text: str, n_chars: int) -> list[str]:
    """A text cut at blank lines into parts of at most n_chars characters; a longer paragraph is a part of its own."""
    found = [""]
    for paragraph in text.split("\n\n"):
        if found[-1] and len(found[-1]) + len(paragraph) > n_chars:
            found.append("")
        found[-1] += ("\n\n" if found[-1] else "") + paragraph
    return found


def summarize(model: CapkvChat, text: str, n_chars: int = 4000) -> Iterator[str]:
    """One sentence about each section, in one conversation: `history` is sent in full each time, and read only once."""
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "You are a careful reader. Answer in one short sentence."),
            MessagesPlaceholder("history"),
            ("human", "{section}\n\nWhat is this section about?"),
        ]
    )
    chain, history = prompt | model | StrOutputParser(), []
    for section in sections(text, n_chars):
        asked = prompt.invoke({"history": history, "section": section}).to_messages()[-1]
        reply = chain.invoke({"history": history, "section": section})
        history += [HumanMessage(asked.content), AIMessage(reply)]
        yield reply


def main() -> None:
    path, model = sys.argv[1], (sys.argv[2:] or ["demo"])[0]
    with Llama(model, kv_budget=1024, verbose=False) as llm:
        for i, sentence in enumerate(summarize(CapkvChat(llm=llm, options={"max_tokens": 60}), Path(path).read_text(encoding="utf-8"))):
            now = llm.kv_stats()
            held = f"{now.n_used:,} of {now.n_tokens:,} tokens held, {llm.n_rereads} times read anew"
            print(f"{i + 1}. {sentence.strip()}   [{held}]", flush=True)


if __name__ == "__main__":
    main()
