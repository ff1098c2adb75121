"""kv_budget: a request may have less of the cache than the server's budget, never more."""

import pytest
from driving import REQUESTS, text

BUDGET = ("--kv-budget", 256)
CELLS = 512  # a headroom of 256 beside it


def test_a_smaller_budget_holds_for_the_request_alone(serve):
    server = serve(*BUDGET)
    small = server.complete(text(2000), n=40, kv_budget=100)["kv"]
    assert small["budget"] == 100 and small["held"] <= 100 + CELLS - 256 and small["held"] + small["evicted"] == 2039
    large = server.complete(text(2000, seed=1), n=40)["kv"]
    assert large["budget"] == 256 and large["capacity"] > small["capacity"]


def test_as_few_tokens_stay_as_with_a_server_of_that_budget(serve):
    prompt = text(1500)
    own = serve("--kv-budget", 256, "--kv-headroom", 256).complete(prompt, n=100)
    asked = serve("--kv-budget", 512, "--kv-headroom", 256).complete(prompt, n=100, kv_budget=256)
    for name in ("budget", "held", "evicted", "tail", "capacity", "evictions"):
        assert asked["kv"][name] == own["kv"][name], name
    assert asked["tokens"] == own["tokens"]


def test_the_same_and_null_are_the_servers(serve):
    server = serve(*BUDGET)
    kinds = [server.complete(text(900), n=8, **more)["kv"]["budget"] for more in ({}, {"kv_budget": 256}, {"kv_budget": None})]
    assert kinds == [256] * 3


@pytest.mark.parametrize("value", [257, 68, 0, -1, 2**63, 2**64 - 1, 99.5, "100", True, [100]], ids=repr)
def test_what_is_not_allowed_is_refused_with_what_is(serve, value):
    server = serve(*BUDGET)
    for path, body in REQUESTS.items():
        refused = server.post(path, **body, kv_budget=value)
        assert refused.status == 400, refused
        allowed = "allowed is a whole number from sinks + recent tokens + 1 = 69 to the server's budget, 256"
        assert "kv_budget = " in refused["error"]["message"] and allowed in refused["error"]["message"]
    assert server.complete(text(20), n=4, kv_budget=69)["kv"]["budget"] == 69


def test_pins_that_leave_no_room_refuse_it_and_the_slot_stays_usable(serve):
    server = serve(*BUDGET)
    server.complete(text(400), n=4, n_keep=100)
    refused = server.post("/completion", prompt=text(400) + text(5, seed=1), n_predict=4, kv_budget=120)
    assert refused.status == 400 and "pin" in refused["error"]["message"], refused
    assert server.complete(text(400) + text(5, seed=1), n=4)["timings"]["cache_n"] > 0


def test_n_keep_is_cut_to_what_the_smaller_budget_has_room_for(serve):
    server = serve(*BUDGET)
    kv = server.complete(text(900), n=4, n_keep=200, kv_budget=128)["kv"]
    assert kv["pinned"] == 128 - 64 - 32 and "the budget of 128 has room for 32" in server.log()


def test_without_a_budget_there_is_none_to_lower(serve):
    refused = serve().post("/completion", prompt=text(20), kv_budget=64)
    assert refused.status == 400 and "the server has no budget; --kv-budget gives it one" in refused["error"]["message"]
