"""Load for a llama-server: conversations over several connections, some of them cut, while its slots are saved and restored."""

import http.client
import json
import random
import threading
import time
from pathlib import Path

from driving import text

LONGEST = 1500  # tokens of a conversation, before another one begins


class Broken(Exception):
    """An answer that is not what it has to be."""


class Load:
    """One round: run() returns what was done, or raises Broken.

    Args:
        server: a llama_server.Server with a budget and --slot-save-path.
        n_requests, n_connections: each connection sends one request after the other; of three requests one is cut.
        seed: of the texts, their lengths, the moments of the cuts, and what is done to the slots.
    """

    def __init__(self, server, n_requests: int, n_connections: int = 8, seed: int = 1):
        self.server, self.n_connections, self.seed = server, n_connections, seed
        self.n_slots = len(server.get("/slots")["list"])
        self.todo = iter(range(n_requests))
        self.lock = threading.Lock()
        self.done = {"answered": 0, "cut": 0, "evictions": 0, "reused": 0, "slot actions": 0}
        self.faults = []

    def run(self) -> dict:
        """Sends all requests; then every slot has to be free and has to answer."""
        workers = [threading.Thread(target=self._guard, args=(self._talk, i)) for i in range(self.n_connections)]
        end = threading.Event()
        # several, since what is done to a slot waits until it is free
        meddlers = [threading.Thread(target=self._guard, args=(self._meddle, end, i)) for i in range(self.n_slots)]
        for thread in (*workers, *meddlers):
            thread.start()
        for thread in workers:
            thread.join()
        end.set()
        for thread in meddlers:
            thread.join()
        if self.faults:
            raise Broken("\n".join(map(str, self.faults[:5])))
        self._check_slots()
        return self.done

    def _guard(self, work, *args) -> None:
        try:
            work(*args)
        except Exception as fault:
            self.faults.append(f"{type(fault).__name__}: {fault}")

    def _count(self, **what) -> None:
        with self.lock:
            for name, n in what.items():
                self.done[name.replace("_", " ")] += n

    # ---

    def _next(self):
        with self.lock:
            return next(self.todo, None) if not self.faults else None

    def _talk(self, connection: int) -> None:
        rng = random.Random(f"{self.seed} {connection}")
        history = []
        while (i := self._next()) is not None:
            if len(history) > LONGEST:
                history = []
            history += text(rng.randint(20, 300), seed=rng.randrange(2**31))
            n = rng.randint(2, 60)
            if i % 3 == 0:
                self._cut(history, n, rng)
                self._count(cut=1)
            else:
                history += self._answer(history, n)

    def _answer(self, history: list, n: int) -> list:
        answer = self.server.complete(history, n=n, slot=-1)
        timings, kv = answer["timings"], answer["kv"]
        if len(answer["tokens"]) != n or timings["cache_n"] + timings["prompt_n"] != len(history):
            raise Broken(f"asked for {n} tokens after {len(history)}: {timings}")
        if kv["held"] + kv["evicted"] != len(history) + n - 1 or not 0 <= kv["tail"] <= kv["held"]:
            raise Broken(f"{len(history)} + {n} tokens: {kv}")
        self._count(answered=1, evictions=kv["evictions"], reused=timings["cache_n"])
        return answer["tokens"]

    def _cut(self, history: list, n: int, rng) -> None:
        """A streamed request whose connection is closed: at once, while the prompt is read, or in the reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=600)
        body = {"prompt": history, "n_predict": 1000 + n, "stream": True, "ignore_eos": True, "return_progress": True}
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        n_lines = rng.choice((0, 1, 10))
        if n_lines:
            reply = connection.getresponse()
            for _ in range(n_lines):
                reply.readline()
            reply.close()
        connection.close()

    def _meddle(self, end, number: int) -> None:
        """Saves, restores, erases, pins and looks, until the event is set."""
        rng = random.Random(f"{self.seed} meddler {number}")
        saved = set()
        while not end.is_set() and not self.faults:
            slot = rng.randrange(self.n_slots)
            action = rng.choice(("save", "restore", "erase", "kept", "slots", "metrics", "pin"))
            name = f"{number}-{rng.randrange(4)}.bin"
            if action in ("save", "restore", "erase"):
                if action == "restore" and name not in saved:
                    continue
                answer = self.server.slot(slot, action, name)
                if action == "save":
                    saved.add(name)
                if answer.status != 200:
                    raise Broken(f"{action} of slot {slot}: {dict(answer)}")
            elif action == "pin":  # refused where the token is evicted, or there is none
                answer = self.server.post(f"/slots/{slot}?action=pin", start=rng.randrange(40), stop=40)
                if answer.status not in (200, 400):
                    raise Broken(f"pin in slot {slot}: {dict(answer)}")
            else:
                path = {"kept": f"/slots/{slot}/kept", "slots": "/slots", "metrics": "/metrics"}[action]
                answer = self.server.get(path)
                if answer.status != 200 or (action == "kept" and len(answer["share"]) != answer["n_past"]):
                    raise Broken(f"{path}: {dict(answer)}")
            self._count(slot_actions=1)
            end.wait(0.01)

    def _check_slots(self) -> None:
        deadline = time.monotonic() + 600
        while any(slot["is_processing"] for slot in self.server.get("/slots")["list"]):
            if time.monotonic() > deadline:
                raise Broken("a slot goes on after all connections were closed")
            time.sleep(0.05)
        metrics = self.server.metrics()
        if metrics["requests_processing"] or metrics["requests_deferred"]:
            raise Broken(f"requests are left: {metrics}")
        for slot in range(self.n_slots):
            answer = self.server.complete(text(300, seed=slot), n=8, slot=slot)
            if len(answer["tokens"]) != 8 or answer["kv"]["slot"] != slot:
                raise Broken(f"slot {slot}: {answer['kv']}")


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes. Linux alone."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
