"""kv_focus: the question of a request takes part in what is evicted of its prompt, and in nothing else."""

import pytest
from driving import REQUESTS, text

BUDGET = ("--kv-budget", 128, "--kv-headroom", 128)  # 256 cells
QUESTION = "Who came to the house?"
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 8


def kept(server, prompt, **more):
    """The share of heads that hold each token of a prompt."""
    answer = server.complete(prompt, n=1, **more)
    assert answer.get("kv"), answer
    return server.get("/slots/0/kept")["share"]


def test_it_takes_part_in_the_evictions_of_its_request_alone(serve):
    plain = kept(serve(*BUDGET), text(600))
    server = serve(*BUDGET)
    asked = kept(server, text(600), kv_focus=QUESTION)
    assert len(asked) == len(plain) == 600 and asked != plain
    assert kept(server, text(700, seed=1)) == kept(serve(*BUDGET), text(700, seed=1))
    assert kept(server, text(600), kv_focus=QUESTION) == asked


def test_a_chats_question_is_a_turn_of_its_template(serve):
    server = serve(*BUDGET)
    rendered = server.post("/apply-template", messages=[{"role": "user", "content": QUESTION}])["prompt"]
    chat = [{"role": "user", "content": LONG}]
    prompt = server.post("/apply-template", messages=chat)["prompt"]
    shares = []
    for question in (QUESTION, "What else?"):
        other = serve(*BUDGET)
        assert other.post("/v1/chat/completions", messages=chat, max_tokens=1, kv_focus=question)["kv"]["evictions"] > 0
        shares.append(other.get("/slots/0/kept")["share"])
    assert shares[0] == kept(server, prompt, kv_focus=rendered) != shares[1]


def test_a_prompt_that_is_reused_stays_so(serve):
    server = serve(*BUDGET)
    server.complete(text(200), n=4)
    again = server.complete(text(200) + text(20, seed=1), n=4, kv_focus=QUESTION)
    assert again["timings"]["cache_n"] == 200 and again["kv"]["reread"] == 0
    assert again["tokens"] == serve(*BUDGET).complete(text(200) + text(20, seed=1), n=4)["tokens"]


def test_a_slot_without_room_for_it_evicts_first(serve):
    server = serve(*BUDGET)
    server.complete(text(250), n=4)
    again = server.complete(text(250) + text(20, seed=1), n=4, kv_focus=QUESTION)
    assert again["timings"]["cache_n"] == 250 and again["kv"]["evictions"] == 1


def test_a_window_is_as_it_was(serve, tiny_gemma):
    prompts = text(300), text(300) + text(150, seed=1)
    plain = serve("--kv-budget", 512, model=tiny_gemma)
    asked = serve("--kv-budget", 512, model=tiny_gemma)
    for prompt in prompts:
        assert asked.complete(prompt, n=8, kv_focus=QUESTION)["tokens"] == plain.complete(prompt, n=8)["tokens"]


@pytest.mark.parametrize("value", ["", 7, ["a"], True], ids=repr)
def test_what_is_no_question_is_refused(serve, value):
    server = serve(*BUDGET)
    for path, body in REQUESTS.items():
        refused = server.post(path, **body, kv_focus=value)
        if path == "/v1/chat/completions" and value == "":
            assert refused.status == 200  # a turn of the user without a word
        else:
            assert refused.status == 400 and "allowed is a text that is not empty" in refused["error"]["message"], refused
    assert server.complete(text(20), n=4, kv_focus=None)["kv"]["held"] == 23


def test_what_cannot_be_is_refused_and_the_slot_stays_usable(serve):
    server = serve(*BUDGET, "--kv-policy", "snapkv")
    server.complete(text(200), n=4)
    refused = server.post("/completion", prompt=text(100) + text(100, seed=1), n_predict=4, kv_focus=QUESTION)
    assert refused.status == 400 and "kv_policy = snapkv keeps no sample of queries" in refused["error"]["message"]
    after = server.complete(text(100) + text(100, seed=1), n=4)
    assert after["timings"]["cache_n"] == 100
    assert after["tokens"] == serve(*BUDGET, "--kv-policy", "snapkv").complete(text(100) + text(100, seed=1), n=4)["tokens"]

    server = serve(*BUDGET)
    refused = server.post("/completion", prompt=text(200), n_predict=4, kv_focus=LONG)
    assert refused.status == 400 and "of 256 cells are free" in refused["error"]["message"]
    assert server.complete(text(200), n=4)["tokens"] == serve(*BUDGET).complete(text(200), n=4)["tokens"]

    refused = serve().post("/completion", prompt=text(20), kv_focus=QUESTION)
    assert refused.status == 400 and "the server has no budget; --kv-budget gives it one" in refused["error"]["message"]
