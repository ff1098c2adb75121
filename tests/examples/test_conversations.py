"""The FastAPI app with several conversations, over HTTP."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from examples_under_test import load_example

uvicorn = pytest.importorskip("uvicorn")
conversations = load_example("conversations")


@pytest.fixture
def url(monkeypatch, demo_model):
    monkeypatch.setenv("MODEL", str(demo_model))
    monkeypatch.setenv("BUDGET", "128")
    monkeypatch.setattr("capkv_edge.threads.default_count", lambda: 1)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        server = uvicorn.Server(uvicorn.Config(conversations.app, log_level="error", lifespan="on", ws="none"))
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[listening]))
        thread.start()
        try:
            end = time.monotonic() + 120
            while not server.started:
                assert time.monotonic() < end and thread.is_alive()
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def ask(url, data=None, method=None):
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.read().decode()


def begin(url):
    return json.loads(ask(f"{url}/conversations", {}))["id"]


def test_two_conversations_keep_their_own_words(url):
    one, two = begin(url), begin(url)
    replies = {one: [], two: []}

    def talk(id, *texts):
        replies[id] += [ask(f"{url}/conversations/{id}", {"text": text}) for text in texts]

    names = {one: "Alice", two: "Bruno"}
    threads = [threading.Thread(target=talk, args=(id, f"My name is {names[id]}. Say hello.", "What is my name?")) for id in names]
    for thread in threads:
        thread.start()
    assert json.loads(ask(f"{url}/conversations/{one}"))["id"] == one, "the server answers while the model works"
    for thread in threads:
        thread.join()
    for id, name in names.items():
        shown = json.loads(ask(f"{url}/conversations/{id}"))
        assert [message["content"] for message in shown["messages"][1::2]] == replies[id]
        assert shown["messages"][0]["content"] == f"My name is {name}. Say hello."
        assert shown["kv"]["budget"] == 128 and shown["kv"]["tokens"] > 20
    assert conversations.app.state.model.llm.n_rereads == 0


def test_a_reply_that_nobody_reads_is_dropped(url):
    id = begin(url)
    said = json.dumps({"text": "Tell me a long story."}).encode()
    request = urllib.request.Request(f"{url}/conversations/{id}", said, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        assert answer.read(1)
    assert ask(f"{url}/conversations/{id}", {"text": "Say hello."})
    messages = json.loads(ask(f"{url}/conversations/{id}"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] and messages[0]["content"] == "Say hello."


def test_a_conversation_that_is_not_there(url):
    id = begin(url)
    ask(f"{url}/conversations/{id}", method="DELETE")
    with pytest.raises(urllib.error.HTTPError, match="404") as error:
        ask(f"{url}/conversations/{id}", {"text": "Hello?"})
    assert json.loads(error.value.read()) == {"detail": f"there is no conversation {id}"}
