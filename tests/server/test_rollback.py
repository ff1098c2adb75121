"""What a client takes back or breaks off: the text is read anew where the cache no longer has it, and the slot stays usable."""

import http.client
import json
import time

import pytest
from driving import text

BUDGET = ("--kv-budget", 128)
SPECULATIVE = ("--spec-type", "draft-simple", "--spec-draft-n-max", 16, "--spec-draft-p-min", 0)


def fresh(serve, prompt, n, **options):
    """What a server says to a prompt that it never saw any of."""
    return serve(*BUDGET, **options).complete(prompt, n=n)["tokens"]


@pytest.mark.parametrize("back", [1, 2, 30], ids=lambda n: f"{n} tokens back")
def test_a_change_within_the_exact_tail_reads_only_what_is_new(serve, back):
    server = serve(*BUDGET)
    history = text(700) + server.complete(text(700), n=10)["tokens"][:-1]
    answer = server.complete(history[:-back] + text(40, seed=1))
    assert answer["timings"]["cache_n"] == len(history) - back


@pytest.mark.parametrize("keep", [1, 5, 200, 600], ids=lambda n: f"first {n} tokens kept")
def test_a_change_in_the_evicted_part_is_read_anew_from_the_start(serve, keep):
    server = serve(*BUDGET)
    server.complete(text(1000), n=100)
    changed = text(1000)[:keep] + text(300, seed=1)
    answer = server.complete(changed, n=60)
    assert answer["timings"]["cache_n"] == 0
    assert answer["tokens"] == fresh(serve, changed, 60)


def test_the_same_prompt_again_is_answered_as_the_first_time(serve):
    server = serve(*BUDGET)
    first = server.complete(text(1000), n=200)["tokens"]  # the reply alone is longer than the exact tail
    assert server.complete(text(1000), n=200)["tokens"] == first


def test_a_prompt_back_from_the_prompt_cache_goes_on_where_it_was(serve):
    server = serve(*BUDGET, "--cache-ram", 100)
    history = text(700) + server.complete(text(700), n=20)["tokens"]
    server.complete(text(500, seed=1))  # takes the only slot
    answer = server.complete(history + text(30, seed=2), slot=-1)
    assert answer["timings"]["cache_n"] == len(history) - 1


@pytest.mark.parametrize("keep", range(1600, 100, -300))
def test_a_window_layer_checkpoint_never_reaches_further_back_than_the_cache(serve, tiny_gemma, keep):
    checkpoints = ("--ctx-checkpoints", 32, "--checkpoint-min-step", 64)
    server = serve("--kv-budget", 256, *checkpoints, model=tiny_gemma)
    for end in (500, 1000, 1500, 1800):
        server.complete(text(end), n=8)
    changed = text(1800)[:keep] + text(50, seed=1)
    answer = server.complete(changed, n=30)
    if answer["timings"]["cache_n"] == 0:
        expected = serve("--kv-budget", 256, *checkpoints, model=tiny_gemma).complete(changed, n=30)
        assert answer["tokens"] == expected["tokens"]
    again = server.complete(changed + answer["tokens"] + text(20, seed=2), n=8)
    assert again["timings"]["cache_n"] == len(changed) + 29


def test_drafts_that_are_rejected_are_taken_back(serve, tiny_llama):
    server = serve(*BUDGET, "-md", tiny_llama, *SPECULATIVE)
    history = text(600)
    for turn in range(3):
        answer = server.complete(history, n=60)
        assert len(answer["tokens"]) == 60
        assert answer["timings"]["draft_n"] > 0
        history += answer["tokens"] + text(40, seed=turn)
    again = server.complete(text(300), n=20)  # an early message changed: all is read anew, in both contexts
    assert again["timings"]["cache_n"] == 0


class Stream:
    """A streamed completion whose connection can be cut."""

    def __init__(self, server, prompt, n, slot=0):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = {"prompt": prompt, "n_predict": n, "id_slot": slot, "stream": True, "ignore_eos": True, "return_progress": True}
        self.connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})

    def wait_for(self, key: str) -> None:
        """Until an event has the key: `prompt_progress` while the prompt is read, `content` with text while the reply is made."""
        self.reply = self.connection.getresponse()
        for line in self.reply:
            if line.startswith(b"data: ") and json.loads(line[6:]).get(key):
                return
        raise AssertionError(f"the stream ended without {key}")

    def cut(self) -> None:
        self.connection.sock.close() if self.connection.sock else self.reply.close()
        self.connection.close()


def wait_until_idle(server) -> None:
    deadline = time.monotonic() + 60
    while any(slot["is_processing"] for slot in server.get("/slots")["list"]):
        assert time.monotonic() < deadline, "the slot of a cut connection goes on"
        time.sleep(0.01)


@pytest.mark.parametrize("moment", ["prompt_progress", "content"])
def test_a_cut_connection_leaves_the_slot_usable(serve, moment):
    server = serve(*BUDGET)
    prompt = text(4000 if moment == "prompt_progress" else 600)
    for _ in range(3):  # a slot that stays busy would be seen in the next round
        stream = Stream(server, prompt, n=3000)
        stream.wait_for(moment)
        stream.cut()
        wait_until_idle(server)
    assert "cancel task" in server.log()
    after = text(500, seed=1)
    answer = server.complete(after, n=60)
    assert answer["tokens"] == fresh(serve, after, 60)
    went_on = server.complete(after + answer["tokens"], n=8)
    assert went_on["timings"]["cache_n"] == len(after) + 59


def test_a_cut_connection_does_not_disturb_the_other_slots(serve):
    server = serve(*BUDGET, "-np", 2, "--no-kv-unified", "-c", 8192)
    prompt = text(400, seed=1)
    alone = server.complete(prompt, n=1, slot=1)["tokens"]
    cut = Stream(server, text(500), n=3000, slot=0)
    cut.wait_for("content")
    start = server.complete(prompt + alone, n=100, slot=1)["tokens"]
    cut.cut()
    rest = server.complete(prompt + alone + start, n=100, slot=1)["tokens"]
    server.slot(1, "erase")
    wait_until_idle(server)
    again = server.complete(prompt, n=1, slot=1)["tokens"]
    assert again == alone
    both = server.complete(prompt + alone, n=100, slot=1)["tokens"]
    assert both == start
    assert server.complete(prompt + alone + both, n=100, slot=1)["tokens"] == rest
