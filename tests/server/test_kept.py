"""GET /slots/N/kept: which of its tokens a slot still holds; pins of a client."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from driving import text
from slot_file import read_slot

BUDGET = ("--kv-budget", 128)
LONG = "Grüße_aus_Köln:_北京,_naïve—“so”🙂._" * 20  # the tiny model writes spaces otherwise


def test_shares_are_those_of_the_heads(serve, tiny_llama, tmp_path):
    server = serve(*BUDGET, "-np", 2, "--slot-save-path", tmp_path)
    server.complete(text(500), n=30, slot=1)
    kept = server.get("/slots/1/kept")
    server.slot(1, "save", "slot.bin")
    tokens, heads = read_slot(tmp_path / "slot.bin", tiny_llama, 2, BUDGET[1])
    expected = np.mean([np.isin(np.arange(len(tokens)), head) for head in heads], axis=0)
    assert (kept["id"], kept["n_past"], kept["n_heads"], kept["pins"]) == (1, 529, len(heads), [])
    np.testing.assert_allclose(kept["share"], expected, atol=1e-4)
    assert len(set(kept["share"])) > 2
    assert server.get("/slots/0/kept")["share"] == []


def test_pieces_join_to_the_text(serve):
    server = serve(*BUDGET)
    server.complete(LONG, n=0)
    kept = server.get("/slots/0/kept")
    assert len(kept["text"]) == kept["n_past"] == len(kept["share"])
    assert "".join(kept["text"]).removeprefix("<s>") == LONG


def test_pins_are_kept_and_taken_back(serve):
    server = serve("--kv-budget", 128, "--kv-policy", "streaming")
    server.complete(text(120), n=1)
    pinned = server.post("/slots/0?action=pin", start=40, stop=60)
    assert dict(pinned) == {"id_slot": 0, "pins": [[40, 60]], "pinned": 20}
    history = text(120) + text(600, seed=1)
    kv = server.complete(history, n=8, n_keep=9)["kv"]  # does not end the pins of a client
    kept = server.get("/slots/0/kept")
    assert kv["pinned"] == 30 and kept["pins"] == [[0, 10], [40, 60]]
    assert kept["share"][40:60] == [1] * 20 and kept["share"][39] == kept["share"][60] == 0
    server.complete(history, n=4, n_keep=5)  # of its own ones a later n_keep ends those that it does not name
    assert server.get("/slots/0/kept")["pins"] == [[0, 6], [40, 60]]
    assert server.post("/slots/0?action=unpin", start=0, stop=50)["pins"] == [[50, 60]]
    server.complete(text(30, seed=2), n=1)
    assert server.get("/slots/0/kept")["pins"] == []


WRONG = [
    ("/slots/0?action=pin", {"start": 10, "stop": 20}, "some KV heads have dropped the tokens [10, 20)"),
    ("/slots/0?action=pin", {"start": 500, "stop": 900}, "stop = 900: allowed is at most the length of the slot's text, 700"),
    ("/slots/0?action=pin", {"start": 20, "stop": 20}, "stop = 20: allowed is more than start = 20"),
    ("/slots/0?action=pin", {"start": -1, "stop": 20}, "start = -1: allowed is a position"),
    ("/slots/0?action=pin", {"start": "a", "stop": 20}, 'start = "a": allowed is a position'),
    ("/slots/0?action=pin", {"start": 2**40, "stop": 2**41}, "start = 1099511627776: allowed is a position"),
    ("/slots/0?action=unpin", {"start": 3}, "stop is missing"),
    ("/slots/0?action=pin", {}, "start is missing"),
    ("/slots/7?action=pin", {"start": 0, "stop": 1}, "slot = 7: allowed is 0 to 0"),
    ("/slots/x?action=pin", {"start": 0, "stop": 1}, "slot = x: allowed is the number of a slot"),
]


def test_what_cannot_be_pinned_is_refused_with_its_reason(serve):
    server = serve(*BUDGET, "--kv-policy", "streaming")
    server.complete(text(700), n=1)
    for path, body, words in WRONG:
        refused = server.post(path, **body)
        assert refused.status == 400 and words in refused["error"]["message"], (path, body, refused)
    assert server.request("/slots/0?action=pin", [1]).status == 400
    for slot in ("7", "x", "-1", "99999999999999999999"):
        refused = server.get(f"/slots/{slot}/kept")
        assert refused.status == 400 and f"slot = {slot}" in refused["error"]["message"]
    refused = server.post("/slots/0?action=pin", start=700 - 60, stop=700)
    assert refused.status == 200 or "budget" in refused["error"]["message"]


@pytest.mark.parametrize("options", [(), (*BUDGET, "--no-slots")], ids=["no budget", "no slots"])
def test_it_is_refused_where_there_is_none(serve, options):
    server = serve(*options)
    for refused in (server.get("/slots/0/kept"), server.post("/slots/0?action=pin", start=0, stop=1)):
        assert refused.status in (400, 501), refused
        assert "has no budget" in refused["error"]["message"] or "--slots" in refused["error"]["message"]


def test_a_slot_that_generates_can_be_seen_and_pinned(serve):
    server = serve(*BUDGET)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(server.complete, text(600), 400)
        while not server.get("/slots/0/kept")["n_past"] > 640:
            assert not work.done()
        kept = server.get("/slots/0/kept")
        assert 256 >= round(sum(kept["share"])) > 60
        assert server.post("/slots/0?action=pin", start=kept["n_past"] - 5, stop=kept["n_past"]).status == 200
        kv = work.result()["kv"]
    assert kv["pinned"] == 5
