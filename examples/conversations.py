"""Several conversations on one model, as a FastAPI app: uvicorn --app-dir examples conversations:app

    curl -X POST localhost:8000/conversations                                              # {"id": "..."}
    curl -N localhost:8000/conversations/ID -H 'content-type: application/json' -d '{"text": "Hello!"}'    # streams the reply
    curl localhost:8000/conversations/ID                                                   # messages, and what the cache holds

A conversation that waits is kept as the state of its cache, a few MiB however long it is. One turn runs at a time; the others wait, and
the server answers everything else meanwhile. MODEL and BUDGET are read from the environment.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from capkv_edge import Llama  # before llama_cpp: it decides which llama.cpp is loaded
from llama_cpp.llama import LlamaState


@dataclass
class Conversation:
    """The messages of a conversation, and the cache after the last one."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    messages: list = field(default_factory=list)
    state: LlamaState | None = None
    kv: dict | None = None  #: figures of the cache after the last turn


class Model:
    """One Llama for all conversations. Its cache holds that of the last turn."""

    def __init__(self, path: str, budget: int):
        self.llm = Llama(path, kv_budget=budget, n_batch=128, verbose=False)
        self.conversations: dict[str, Conversation] = {}
        self._turn = asyncio.Lock()
        self._held: Conversation | None = None  # whose text the cache holds

    async def reply(self, talk: Conversation, text: str) -> AsyncIterator[str]:
        """The reply to a text, piece by piece. A turn that is not read to its end is dropped."""
        async with self._turn:
            await self._switch(talk)
            messages = [*talk.messages, {"role": "user", "content": text}]
            pieces, self._held = [], None
            async for chunk in self.llm.create_chat_completion_async(messages, max_tokens=400):
                if piece := chunk["choices"][0]["delta"].get("content"):
                    pieces.append(piece)
                    yield piece
            talk.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]
            talk.kv, self._held = self._figures(), talk

    async def _switch(self, talk: Conversation) -> None:
        """Put the cache of a conversation into the Llama, and keep that of the one that was there."""
        if self._held is talk:
            return
        if self._held is not None:
            self._held.state = await asyncio.to_thread(self.llm.save_state)
        if talk.state is None:
            await asyncio.to_thread(self.llm.reset)
        else:
            await asyncio.to_thread(self.llm.load_state, talk.state)

    def _figures(self) -> dict:
        now = self.llm.kv_stats()
        return dict(tokens=now.n_tokens, held=now.n_used, evicted=now.n_evicted, bytes=now.bytes_total, budget=now.config.budget)


class Text(BaseModel):
    """What a user says."""

    text: str


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.model = Model(os.environ.get("MODEL", "demo"), int(os.environ.get("BUDGET", "1024")))
    yield
    app.state.model.llm.close()


app = FastAPI(title="conversations", lifespan=lifespan)


def _find(request: Request, id: str) -> Conversation:
    if id not in request.app.state.model.conversations:
        raise HTTPException(404, f"there is no conversation {id}")
    return request.app.state.model.conversations[id]


@app.post("/conversations")
def begin(request: Request) -> dict:
    talk = Conversation()
    request.app.state.model.conversations[talk.id] = talk
    return {"id": talk.id}


@app.post("/conversations/{id}")
def say(request: Request, id: str, said: Text) -> StreamingResponse:
    return StreamingResponse(request.app.state.model.reply(_find(request, id), said.text), media_type="text/plain; charset=utf-8")


@app.get("/conversations/{id}")
def look(request: Request, id: str) -> dict:
    talk = _find(request, id)
    return {name: value for name, value in vars(talk).items() if name != "state"}


@app.delete("/conversations/{id}")
def end(request: Request, id: str) -> dict:
    _find(request, id)
    del request.app.state.model.conversations[id]
    return {"id": id}
