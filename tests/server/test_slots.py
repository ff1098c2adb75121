"""Slots of one llama-server: each is as if it were alone; prompts are reused, saved and restored, after evictions as well."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from driving import text
from slot_file import read_slot

BUDGET = ("--kv-budget", 128)
N_SLOTS = 4


def talk(server, n_turns, slots):
    """Prompts of some hundred tokens in turn for each slot, each alone; then all slots reply at once. Returns all tokens."""
    histories = {slot: [] for slot in slots}
    for turn in range(n_turns):
        for slot in slots:
            histories[slot] += text(300 + 40 * slot, seed=10 * turn + slot)
            histories[slot] += server.complete(histories[slot], n=4, slot=slot)["tokens"]

    def reply(slot):
        return server.complete(histories[slot], n=200, slot=slot)["tokens"]

    with ThreadPoolExecutor(len(slots)) as pool:
        return {slot: histories[slot] + tokens for slot, tokens in zip(slots, pool.map(reply, slots))}


def test_four_slots_that_reply_at_once_say_what_each_says_alone(serve):
    # a policy that computes nothing of what it keeps: on some processors products round differently for four tokens and for
    # one, and a policy that scores entries may then keep another one
    options = (*BUDGET, "--kv-policy", "streaming", "-np", N_SLOTS, "-c", 4 * 4096)
    together = talk(serve(*options, "--no-kv-unified"), 2, range(N_SLOTS))
    for slot in range(N_SLOTS):
        # the same conversation, with nobody else there
        alone = talk(serve(*options), 2, [slot])
        assert together[slot] == alone[slot]
    assert len({tuple(tokens) for tokens in together.values()}) == N_SLOTS


def test_prompts_read_at_once_leave_each_slot_its_own_tokens(serve, tiny_llama, tmp_path):
    server = serve(*BUDGET, "-np", N_SLOTS, "--slot-save-path", tmp_path)
    prompts = [text(700 + 30 * slot, seed=slot) for slot in range(N_SLOTS)]

    def run(slot):
        return server.complete(prompts[slot], n=40, slot=slot)["tokens"]

    with ThreadPoolExecutor(N_SLOTS) as pool:
        replies = list(pool.map(run, range(N_SLOTS)))
    for slot in range(N_SLOTS):
        server.slot(slot, "save", f"{slot}.bin")
        tokens, heads = read_slot(tmp_path / f"{slot}.bin", tiny_llama, N_SLOTS, BUDGET[1])
        assert tokens == (prompts[slot] + replies[slot])[:-1]  # the last one was sampled, not read
        last = len(tokens) - 1
        assert len(heads) == 4
        for positions in heads:
            assert len(positions) <= 256 < len(tokens)
            assert list(positions[:4]) == [0, 1, 2, 3]
            assert list(positions[-64:]) == list(range(last - 63, last + 1))
            assert (np.diff(positions) > 0).all()


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gemma"])
def test_a_turn_reads_only_what_is_new_after_evictions_too(serve, model, request):
    server = serve(*BUDGET, model=request.getfixturevalue(model))
    history = []
    for turn in range(5):
        new = text(150, seed=turn)
        answer = server.complete(history + new, n=60)
        assert answer["timings"]["cache_n"] == max(0, len(history) - 1)  # the last token was sampled, not read
        assert answer["timings"]["prompt_n"] == len(history) + len(new) - answer["timings"]["cache_n"]
        history += new + answer["tokens"]
    assert len(history) > 4 * 256  # of which the cache has 256 cells


@pytest.mark.parametrize("n_prompt", [100, 900], ids=["within the budget", "after evictions"])
def test_a_restored_slot_goes_on_as_the_saved_one(serve, tmp_path, n_prompt):
    first = serve(*BUDGET, "-np", 2, "--slot-save-path", tmp_path)
    start = first.complete(text(n_prompt), n=30)["tokens"]
    saved = first.slot(0, "save")
    history = text(n_prompt) + start
    expected = first.complete(history + text(50, seed=1), n=150)["tokens"]

    second = serve(*BUDGET, "-np", 2, "--slot-save-path", tmp_path)
    second.complete(text(400, seed=7), slot=1)  # which is gone afterwards
    restored = second.slot(1, "restore")
    assert restored.status == 200 and restored["n_restored"] == saved["n_saved"] == len(history) - 1
    answer = second.complete(history + text(50, seed=1), n=150, slot=1)
    assert answer["tokens"] == expected
    assert answer["timings"]["cache_n"] == len(history) - 1


def test_an_erased_slot_starts_anew(serve, tmp_path):
    server = serve(*BUDGET, "--slot-save-path", tmp_path)
    expected = server.complete(text(500), n=80)["tokens"]
    assert server.slot(0, "erase")["n_erased"] == 500 + 79
    answer = server.complete(text(500), n=80)
    assert answer["timings"]["cache_n"] == 0
    assert answer["tokens"] == expected


@pytest.mark.parametrize("damage", ["another policy", "cut short", "no budget"])
def test_a_state_that_does_not_fit_is_refused_and_the_slot_stays_usable(serve, tmp_path, damage):
    options = {"another policy": (*BUDGET, "--kv-policy", "streaming"), "no budget": ()}.get(damage, BUDGET)
    source = serve(*options, "--slot-save-path", tmp_path)
    source.complete(text(600))
    source.slot(0, "save")
    if damage == "cut short":
        path = tmp_path / "slot.bin"
        path.write_bytes(path.read_bytes()[:-1000])

    server = serve(*BUDGET, "--slot-save-path", tmp_path)
    expected = server.complete(text(300), n=40)["tokens"]
    refused = server.slot(0, "restore")
    assert refused.status == 400 and "Unable to restore slot" in refused["error"]["message"]
    again = server.complete(text(300), n=40)
    assert again["tokens"] == expected
    assert again["timings"]["cache_n"] == 0


def test_replies_to_one_prompt_are_copies_that_go_their_own_ways(serve):
    server = serve(*BUDGET, "-np", 3)
    body = {"prompt": text(600), "n_predict": 150, "ignore_eos": True, "return_tokens": True, "seed": 3, "temperature": 1.0}
    replies = server.post("/completion", **body, n_cmpl=3)["list"]
    assert len({tuple(reply["tokens"]) for reply in replies}) == 3
    assert {len(reply["tokens"]) for reply in replies} == {150}
    alike = server.post("/completion", **body | {"temperature": 0}, n_cmpl=3)["list"]
    assert len({tuple(reply["tokens"]) for reply in alike}) == 1
