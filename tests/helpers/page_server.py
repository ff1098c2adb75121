"""A server that stands in for llama-server with a KV budget, for tests of its page: the JSON of docs/server.md, replies that a test sets.

A token is a word with the white space before it. The text of a slot is in ChatML, and evictions drop tokens of the middle.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import capkv_edge

PAGE = Path(capkv_edge.__file__).parent / "serve" / "page" / "index.html"
N_HEADS = 8
SINK = 4


class Slot:
    """One text and what eight heads hold of it."""

    def __init__(self, budget: int, headroom: int, recent: int):
        self.budget, self.headroom, self.recent = budget, headroom, recent
        self.tokens: list = []
        self.share: list = []
        self.pins: list = []
        self.evictions = 0

    def read(self, tokens: list) -> tuple[int, int]:
        """Go on from the common start: returns how many tokens were reused, and how many were there and are read again."""
        same = next((i for i, pair in enumerate(zip(self.tokens, tokens)) if pair[0] != pair[1]), min(len(self.tokens), len(tokens)))
        gone = any(share < 1 for share in self.share[same:])
        if gone:
            reread, same = same, 0
        else:
            reread = 0
        del self.tokens[same:], self.share[same:]
        self.pins = [pin for pin in self.pins if pin[1] <= same]
        for token in tokens[same:]:
            self.append(token)
        return same, reread

    def append(self, token: str) -> None:
        self.tokens.append(token)
        self.share.append(1.0)
        if self.held() > self.budget + self.headroom:
            self.evict()

    def evict(self) -> None:
        """Lower the shares of the middle, each token's to another eighth, until the heads hold no more than the budget on average."""
        self.evictions += 1
        middle = [i for i in range(SINK, len(self.tokens) - self.recent) if not self.is_pinned(i)]
        for step in range(N_HEADS):
            for i in middle:
                if self.held() <= self.budget:
                    return
                self.share[i] = min(self.share[i], max(i * 5 % N_HEADS - step, 0) / N_HEADS)

    def is_pinned(self, i: int) -> bool:
        return any(start <= i < stop for start, stop in self.pins)

    def held(self) -> int:
        return round(sum(self.share))

    def kv(self) -> dict:
        tail = next((n for n, share in enumerate(reversed(self.share)) if share < 1), len(self.share))
        return {
            "budget": self.budget, "held": self.held(), "evicted": len(self.tokens) - self.held(), "tail": tail,
            "capacity": 0.93 if self.evictions else None, "pinned": sum(stop - start for start, stop in self.pins),
            "evictions": self.evictions, "ms": 20.0 * self.evictions, "reread": 0,
        }


def chatml(messages: list) -> list:
    text = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return re.findall(r"<\|\w+\|>|\s*[^\s<]+|\s+|<", text)


class PageServer:
    """server.replies: texts in the order of the answers; "" once they are used up. A reply may be a (status, message) to refuse with."""

    def __init__(self, budget: int | None = 64, headroom: int = 32, recent: int = 16, port: int = 0):
        self.replies: list = []
        self.requests: list = []  # bodies of POST, with their path
        self.api_key = None
        self.broken_after = None  # pieces after which a stream ends without its last chunk
        self.gate = threading.Event()  # replies wait for it before their third piece
        self.gate.set()
        self.slot = Slot(budget or 1 << 30, headroom, recent)
        self.has_budget = budget is not None
        self.is_busy = False
        self.http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"server_of_page": self}))
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.gate.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def chats(self) -> list:
        return [body for path, body in self.requests if path == "/v1/chat/completions"]


class Handler(BaseHTTPRequestHandler):
    server_of_page: PageServer

    def log_message(self, *args):
        pass

    def answer(self, value, status: int = 200, kind: str = "application/json") -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        self.answer({"error": {"code": status, "message": message, "type": "invalid_request_error"}}, status)

    def is_allowed(self) -> bool:
        key = self.server_of_page.api_key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.refuse(401, "Invalid API Key")
        return False

    def do_GET(self):
        server = self.server_of_page
        if self.path == "/":
            self.answer(PAGE.read_bytes(), kind="text/html")
        elif self.path == "/health":
            self.answer({"status": "ok"})
        elif not self.is_allowed():
            pass
        elif self.path == "/props":
            slot = server.slot
            kv = {"budget": slot.budget, "policy": "capkv", "headroom": slot.headroom, "cells": slot.budget + slot.headroom}
            self.answer({"model_path": "/models/tiny.gguf", "total_slots": 1, "kv": kv if server.has_budget else None})
        elif self.path == "/slots":
            self.answer([{"id": 0, "is_processing": server.is_busy, "kv": server.slot.kv()}])
        elif self.path == "/slots/0/kept":
            slot = server.slot
            sizes = {"id": 0, "n_past": len(slot.tokens), "n_heads": N_HEADS}
            self.answer({**sizes, "share": slot.share, "text": slot.tokens, "pins": slot.pins})
        else:
            self.refuse(404, "File Not Found")

    def do_POST(self):
        server = self.server_of_page
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_allowed():
            return
        server.requests.append((self.path, body))
        if self.path.startswith("/slots/0?action="):
            self.pin(self.path.partition("=")[2], body["start"], body["stop"])
        elif self.path == "/v1/chat/completions":
            reply = server.replies.pop(0) if server.replies else ""
            if isinstance(reply, tuple):
                self.refuse(*reply)
            else:
                server.is_busy = True
                self.stream(body, reply)
        else:
            self.refuse(404, "File Not Found")

    def pin(self, action: str, start: int, stop: int) -> None:
        slot = self.server_of_page.slot
        if action == "unpin":
            slot.pins = [pin for pin in slot.pins if not (start <= pin[0] and pin[1] <= stop)]
        elif any(share < 1 for share in slot.share[start:stop]):
            return self.refuse(400, f"positions {start} to {stop - 1} are not held by all heads")
        else:
            slot.pins = sorted([*slot.pins, [start, stop]])
        self.answer({"id_slot": 0, "pins": slot.pins, "pinned": sum(stop - start for start, stop in slot.pins)})

    def stream(self, body: dict, reply: str) -> None:
        server, slot = self.server_of_page, self.server_of_page.slot
        before = slot.evictions
        prompt = chatml(body["messages"])
        cached, reread = slot.read([*prompt, "<|im_start|>", "assistant", "\n"])
        if body["n_keep"] == -1 and body["messages"][0]["role"] == "system" and not slot.pins:
            slot.pins = [[0, len(chatml(body["messages"][:1]))]]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces = re.findall(r"\s*\S+\s*$|\s*\S+", reply)
        try:
            self.event(choices=[], prompt_progress={"total": len(prompt), "cache": cached, "processed": len(prompt), "time_ms": 1})
            for i, piece in enumerate(pieces):
                if i == 2:
                    server.gate.wait(20)
                if i == server.broken_after:
                    return
                slot.append(piece)
                self.event(choices=[{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
            timings = {"prompt_n": len(prompt) - cached, "prompt_per_second": 200.0}
            timings |= {"predicted_n": len(pieces), "predicted_per_second": 50.0}
            server.is_busy = False
            kv = {**slot.kv(), "slot": 0, "evictions": slot.evictions - before, "reread": reread}
            self.event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
            self.event(choices=[], usage={}, timings=timings, **({"kv": kv} if server.has_budget else {}))
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # the page stopped the reply
        finally:
            server.is_busy = False

    def event(self, **value) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()
