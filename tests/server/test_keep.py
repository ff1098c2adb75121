"""n_keep: tokens at the start of a prompt that stay in every head, from --keep or from a request."""

import numpy as np
import pytest
from driving import text
from slot_file import read_slot

BUDGET = ("--kv-budget", 128, "--kv-policy", "streaming")  # which keeps nothing between the sinks and the recent window by itself
N_ROOM = 128 - 32 - 64  # a quarter of the budget is left to choose from, and the last 64 tokens stay


@pytest.fixture
def kept(serve, tiny_llama, tmp_path):
    """kept(server, slot): how many tokens from the first on every head of a slot holds."""

    def of(server, slot=0):
        assert server.slot(slot, "save", "kept.bin").status == 200
        tokens, heads = read_slot(tmp_path / "kept.bin", tiny_llama, 1, BUDGET[1], policy=BUDGET[3])
        missing = [np.setdiff1d(np.arange(len(tokens)), head).min(initial=len(tokens)) for head in heads]
        return int(min(missing))

    return of


@pytest.fixture
def start(serve, tmp_path):
    return lambda *options: serve(*BUDGET, "--slot-save-path", tmp_path, *options)


def test_the_servers_option_pins_the_start_of_every_prompt(start, kept):
    server = start("--keep", 20)
    history = text(300)
    for turn in range(4):
        history += server.complete(history, n=60)["tokens"] + text(100, seed=turn)
        assert kept(server) == 21  # and a BOS token, as without a budget
    answer = server.complete(history)
    assert answer["timings"]["cache_n"] > 0


def test_without_it_only_the_sinks_are_sure_to_stay(start, kept):
    server = start()
    server.complete(text(600))
    assert kept(server) == 4


def test_a_request_says_how_many(start, kept):
    server = start()
    server.complete(text(600), n_keep=25)
    assert kept(server) == 26
    server.complete(text(600) + text(300, seed=1))  # without a wish: what is pinned stays
    assert kept(server) == 26
    server.complete(text(600) + text(600, seed=1), n_keep=9)
    assert kept(server) == 10
    server.complete(text(500, seed=2))  # another prompt
    assert kept(server) == 4


def test_what_was_evicted_is_read_again_to_be_kept(start, kept):
    server = start()
    history = text(600) + server.complete(text(600))["tokens"]
    answer = server.complete(history + text(50, seed=1), n_keep=25)
    assert answer["timings"]["cache_n"] == 0 and kept(server) == 26
    history += text(50, seed=1) + answer["tokens"]
    answer = server.complete(history + text(50, seed=2), n_keep=25)
    assert answer["timings"]["cache_n"] == len(history) - 1 and kept(server) == 26


def test_more_than_there_is_room_for_is_cut_and_told(start, kept):
    server = start()
    server.complete(text(600), n_keep=2**31 - 1)
    assert kept(server) == N_ROOM
    said = f"n_keep asks for 600 tokens of the prompt: the budget of 128 has room for {N_ROOM}, the first of which are pinned"
    assert server.log().count(said) == 1


def test_all_is_the_whole_first_prompt(start, kept):
    server = start("--keep", -1)
    history = text(24)
    for turn in range(4):
        history += server.complete(history, n=60)["tokens"] + text(100, seed=turn)
    assert kept(server) == 24


def test_all_is_the_system_message_of_a_chat(start, kept):
    server = start()
    messages = [{"role": "system", "content": "Be_brief."}]
    for _ in range(4):
        messages.append({"role": "user", "content": "so_" * 60})
        answer = server.post("/v1/chat/completions", messages=messages, max_tokens=40, n_keep=-1)
        assert answer.status == 200, answer
        messages.append({"role": "assistant", "content": "so_" * 10})
    n_system = len("<[system]Be_brief.>")  # control tokens as one character
    assert kept(server) == n_system


#: a template that says something itself where a chat has no system message: llama-server does not find out how it begins a user's message
WITH_DEFAULT = """{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '[system]You_are_Ada.' }}{% endif %}\
{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""


@pytest.mark.parametrize(("system", "start"), [("Be_brief.", "[system]Be_brief.[user]"), (None, "[system]You_are_Ada.[user]")])
def test_all_is_the_system_message_with_any_template(start, system, serve, tmp_path):
    server = serve(*BUDGET, "--jinja", "--chat-template", WITH_DEFAULT, "--keep", -1)
    messages = [{"role": "system", "content": system}] if system else []
    for _ in range(4):
        messages.append({"role": "user", "content": "so_" * 60})
        answer = server.post("/v1/chat/completions", messages=messages, max_tokens=40)
        messages.append({"role": "assistant", "content": "so_" * 10})
    kept = server.get(f"/slots/{answer['kv']['slot']}/kept")
    assert "".join(kept["text"]).startswith(("<s>" + start, start)) and answer["kv"]["evicted"] > 300
    (pin,) = kept["pins"]
    assert "".join(kept["text"][slice(*pin)]).removeprefix("<s>") == start
    none = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "A_new_one." * 30}], max_tokens=4, n_keep=0)
    assert none["kv"]["pinned"] == 0


def test_a_restored_slot_keeps_them(start, kept, tmp_path):
    first = start()
    history = text(600) + first.complete(text(600), n=30, n_keep=25)["tokens"]
    first.slot(0, "save", "slot.bin")
    second = start()
    second.slot(0, "restore", "slot.bin")
    for turn in range(3):
        answer = second.complete(history + text(150, seed=turn), n=30)
        assert answer["timings"]["cache_n"] == len(history) - 1 and kept(second) == 26
        history += text(150, seed=turn) + answer["tokens"]
    answer = second.complete(history + text(50, seed=9), n_keep=25)
    assert answer["timings"]["cache_n"] == len(history) - 1
