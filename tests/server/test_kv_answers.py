"""The object `kv` of answers, in each format, and of /props and /slots: its figures are those of the cache."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from driving import text
from slot_file import read_slot

BUDGET = ("--kv-budget", 128)
FIELDS = ["slot", "budget", "held", "evicted", "tail", "capacity", "pinned", "evictions", "ms", "reread"]
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 8
CHAT = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 20, "temperature": 0, "ignore_eos": True}


def test_the_figures_are_those_of_the_cache(serve, tiny_llama, tmp_path):
    server = serve(*BUDGET, "--slot-save-path", tmp_path)
    kv = server.complete(text(700), n=30)["kv"]
    server.slot(0, "save", "slot.bin")
    tokens, heads = read_slot(tmp_path / "slot.bin", tiny_llama, 1, BUDGET[1])
    assert list(kv) == FIELDS
    assert (kv["slot"], kv["budget"], kv["pinned"], kv["reread"]) == (0, 128, 0, 0)
    assert {kv["held"]} == {len(head) for head in heads} and kv["held"] + kv["evicted"] == len(tokens) == 729
    every = set.intersection(*map(set, map(list, heads)))
    assert kv["tail"] == next(n for n in range(len(tokens)) if len(tokens) - 1 - n not in every)
    assert 0.3 < kv["capacity"] < 1 and kv["evictions"] >= 3 and 0 < kv["ms"] < 60_000


def test_each_request_counts_its_own_evictions(serve):
    server = serve(*BUDGET)
    first = server.complete(text(100), n=10)
    assert first["kv"]["capacity"] is None and (first["kv"]["evictions"], first["kv"]["ms"]) == (0, 0)
    assert first["kv"]["tail"] == first["kv"]["held"] == 109
    second = server.complete(text(700), n=10)["kv"]
    third = server.complete(text(700) + text(20, seed=1), n=4)["kv"]
    assert second["evictions"] > 3 > third["evictions"] and third["held"] <= 256
    slot = server.get("/slots")["list"][0]["kv"]
    assert list(slot) == FIELDS and slot["evictions"] == second["evictions"] + third["evictions"]
    assert (slot["held"], slot["evicted"]) == (third["held"], third["evicted"])


FORMATS = {
    "/completion": {"prompt": LONG, "n_predict": 20},
    "/v1/completions": {"prompt": LONG, "max_tokens": 20},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"input": LONG, "max_output_tokens": 20},
    "/v1/messages": {"messages": CHAT["messages"], "max_tokens": 20},
}


@pytest.mark.parametrize("path", FORMATS)
def test_every_format_has_it(serve, path):
    server = serve(*BUDGET)
    whole = server.post(path, **FORMATS[path])
    assert whole.status == 200 and list(whole["kv"]) == FIELDS and whole["kv"]["evictions"] > 0
    *others, last = server.stream(path, **FORMATS[path])
    assert list(last["kv"]) == FIELDS and last["kv"]["held"] > 0
    assert not any("kv" in event for event in others)


def test_a_streamed_chat_has_it_beside_the_usage(serve):
    events = serve(*BUDGET).stream("/v1/chat/completions", **CHAT, stream_options={"include_usage": True})
    assert {"usage", "timings", "kv"} <= set(events[-1]) and events[-1]["choices"] == []


def test_fields_that_a_request_names(serve):
    server = serve(*BUDGET)
    assert set(server.complete(text(20), response_fields=["content", "kv"])) == {"content", "kv"}
    assert set(server.complete(text(20), response_fields=["content"])) == {"content"}


def test_copies_of_one_prompt_say_what_each_holds(serve):
    server = serve(*BUDGET, "-np", 3)
    replies = server.post("/completion", prompt=text(600), n_predict=150, ignore_eos=True, n_cmpl=3)["list"]
    assert {(reply["kv"]["held"] + reply["kv"]["evicted"], reply["kv"]["budget"]) for reply in replies} == {(749, 128)}
    assert {reply["kv"]["slot"] for reply in replies} == {0, 1, 2}
    assert min(reply["kv"]["evictions"] for reply in replies) >= 3


def test_props_say_what_the_budget_is(serve):
    props = serve(*BUDGET, "-np", 2, "-c", 0, "--kv-recent", 32).get("/props")["kv"]
    kinds = {"budget": 128, "policy": "capkv", "sink": 4, "recent": 32, "headroom": 128, "cells": 256, "type": "q8_0", "endless": True}
    assert props.pop("bytes") > 0 and props == kinds


def test_without_a_budget_there_is_none(serve):
    server = serve()
    assert "kv" not in server.complete(text(50)) and "kv" not in server.get("/slots")["list"][0]
    assert "kv" not in server.stream("/v1/chat/completions", **CHAT)[-1]
    assert server.get("/props")["kv"] is None
    assert not any(name.startswith("kv_") for name in server.metrics())


def test_slots_are_told_while_a_batch_is_computed(serve):
    server = serve(*BUDGET, "-np", 2, "--no-kv-unified", "-c", 8192)
    server.complete(text(500), n=4, slot=1)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(server.complete, text(2500), 200, 0)
        seen = [server.get("/slots")["list"] for _ in range(40)]
        work.result()
    assert {slots[1]["kv"]["evicted"] + slots[1]["kv"]["held"] for slots in seen} == {503}
    assert max(slots[0]["kv"]["evicted"] for slots in seen) > 0
    assert server.get("/slots")["list"][0]["kv"]["held"] <= 256
