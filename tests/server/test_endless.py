"""A server with a budget and no -c: a request longer than the trained length is read, and a history that comes again is reused."""

import pytest
import tiny_models
from driving import text

ENDLESS = ("--kv-budget", 128, "-c", 0)


@pytest.fixture(scope="module")
def short_model(tmp_path_factory):
    """A tiny model that was trained for 512 tokens."""
    path = tmp_path_factory.mktemp("models") / "short.gguf"
    tiny_models.write_llama(path, n_ctx=512)
    return path


def test_a_request_past_the_trained_length_is_read_and_answered(serve, short_model):
    server = serve(*ENDLESS, model=short_model)
    answer = server.complete(text(3000), n=40)
    assert answer["timings"]["prompt_n"] == 3000 and len(answer["tokens"]) == 40 and not answer["truncated"]
    log = server.log()
    assert "1 slots with 256 cells each for a text without end" in log
    assert "n_ctx_train" not in log.partition("model loaded")[0].partition("KV budget")[2] and "- capping" not in log


def test_what_clients_are_told_of_the_length(serve, short_model):
    server = serve(*ENDLESS, "-np", 2, "--no-kv-unified", model=short_model)
    assert [slot["n_ctx"] for slot in server.get("/slots")["list"]] == [2**29] * 2
    assert server.get("/props")["default_generation_settings"]["n_ctx"] == 2**29
    meta = server.get("/v1/models")["data"][0]["meta"]
    assert (meta["n_ctx"], meta["n_ctx_train"]) == (2**29, 512)


@pytest.mark.parametrize("slots", [("-np", 1), ("-np", -1), ("-np", 2, "--no-kv-unified")], ids=str)
@pytest.mark.parametrize("fit", ["on", "off"])
def test_a_history_that_comes_again_is_not_read_again(serve, short_model, slots, fit):
    server = serve(*ENDLESS, *slots, "-fit", fit, model=short_model)
    history = text(700)
    for turn in range(6):  # as clients of the OpenAI API do: the whole history each time
        n_known = len(history) if turn else 0
        history += text(50, seed=turn)
        answer = server.complete(history, n=30)
        # the last token of a reply was not read yet when it was sent
        assert answer["timings"]["cache_n"] == max(0, n_known - 1)
        assert answer["timings"]["prompt_n"] == len(history) - max(0, n_known - 1)
        history += answer["tokens"]
    assert len(history) > 2 * 512


def test_a_chat_past_the_trained_length_reuses_its_history(serve, short_model):
    server = serve(*ENDLESS, model=short_model)
    messages = []
    for turn in range(5):
        messages.append({"role": "user", "content": f"{turn}: " + "go on with the story. " * 12})
        answer = server.post("/v1/chat/completions", messages=messages, max_tokens=20, temperature=0)
        assert answer.status == 200
        messages.append({"role": "assistant", "content": "and so on. "})
        cached, read = answer["timings"]["cache_n"], answer["timings"]["prompt_n"]
        assert cached > 0.6 * (cached + read) if turn > 2 else True
    assert cached + read > 2 * 512


def test_an_explicit_length_stays_a_limit(serve, short_model):
    for n_ctx in (512, 2048):
        server = serve("--kv-budget", 128, "-c", n_ctx, model=short_model)
        refused = server.post("/completion", prompt=text(n_ctx), n_predict=4)
        assert refused.status == 400 and refused["error"]["n_ctx"] == n_ctx
        assert len(server.complete(text(n_ctx - 100), n=8)["tokens"]) == 8


def test_without_a_budget_the_context_ends_at_the_trained_length(serve, short_model):
    server = serve("-c", 0, model=short_model)
    refused = server.post("/completion", prompt=text(600), n_predict=4)
    assert refused.status == 400 and refused["error"]["n_ctx"] == 512


def test_a_reply_without_a_limit_ends_at_the_trained_length(serve, short_model):
    server = serve(*ENDLESS, model=short_model)
    answer = server.complete(text(700), n=-1)
    assert len(answer["tokens"]) == 512 and answer["stop_type"] == "limit"
    assert len(server.complete(text(700), n=600)["tokens"]) == 600


def test_drafts_go_on_past_the_trained_length(serve, short_model):
    draft = ("-md", short_model, "--spec-type", "draft-simple", "--spec-draft-n-max", 4)
    server = serve(*ENDLESS, *draft, model=short_model)
    without = serve("-c", 0, *draft, model=short_model)
    assert server.caches()[-1] == without.caches()[-1] == (512, 1)
    history = text(400)
    for turn in range(6):
        answer = server.complete(history, n=100)
        assert len(answer["tokens"]) == 100
        history += answer["tokens"] + text(50, seed=turn)
    assert len(history) > 2 * 512


def test_a_server_that_slept_has_no_end_still(serve, short_model):
    server = serve(*ENDLESS, "-np", -1, "--sleep-idle-seconds", 1, model=short_model)
    first = server.complete(text(1000), n=10)["tokens"]
    for _ in range(600):
        if "entering sleeping state" in server.log():
            break
        server.pause(0.05)
    assert server.complete(text(1000), n=10)["tokens"] == first
    assert [slot["n_ctx"] for slot in server.get("/slots")["list"]] == [2**28] * 4
