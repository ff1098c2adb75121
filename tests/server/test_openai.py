"""A conversation through the openai client, as an application has it."""

import openai
import pytest

BUDGET = ("--kv-budget", 128)
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 8


@pytest.fixture
def connect():
    clients = []

    def make(server):
        clients.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def ask(client, messages, n=40, stream=False, **body):
    return client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=n, temperature=0, stream=stream, extra_body={"ignore_eos": True, **body}
    )


def user(content):
    return {"role": "user", "content": content}


def test_a_chat_far_over_the_budget_reuses_what_was_read(serve, connect):
    server = serve(*BUDGET)
    client = connect(server)
    messages = [{"role": "system", "content": "Be brief."}]
    cached = []
    for turn in range(4):
        messages.append(user(f"{turn}: {LONG}"))
        reply = ask(client, messages)
        assert reply.usage.completion_tokens == 40
        details = reply.usage.prompt_tokens_details
        cached.append((details.cached_tokens, reply.usage.prompt_tokens))
        messages.append({"role": "assistant", "content": reply.choices[0].message.content})
    # a turn's own prompt comes back whole in the next one (the reply's bytes may be another text's tokens)
    for (_, read), (reused, _) in zip(cached, cached[1:]):
        assert reused >= read
    assert cached[-1][1] > 8 * 256


def test_a_streamed_reply_is_the_whole_one_in_pieces(serve, connect):
    client = connect(serve(*BUDGET))
    messages = [user(LONG)]
    # a reply that is UTF-8: llama-server's stream ends before a byte that is none
    grammar = "root ::= [ -~]+"
    whole = ask(client, messages, grammar=grammar).choices[0].message.content
    pieces = [part.choices[0].delta.content for part in ask(client, messages, stream=True, grammar=grammar) if part.choices]
    assert len(whole) > 10 and "".join(filter(None, pieces)) == whole


def test_a_changed_early_message_is_answered_as_by_a_fresh_server(serve, connect):
    client = connect(serve(*BUDGET))
    history = [user(LONG), {"role": "assistant", "content": "Yes."}, user(LONG[::-1])]
    ask(client, history)
    history[0] = user("Another beginning. " + LONG)
    changed = ask(client, history)
    assert changed.usage.prompt_tokens_details.cached_tokens == 0
    fresh = ask(connect(serve(*BUDGET)), history)
    assert changed.choices[0].message.content == fresh.choices[0].message.content


def test_a_stream_that_is_closed_early_leaves_the_server_answering(serve, connect):
    client = connect(serve(*BUDGET))
    before = ask(client, [user(LONG)]).choices[0].message.content
    for _ in range(3):
        with ask(client, [user(LONG + "!")], n=2000, stream=True) as stream:
            for part in stream:
                if part.choices and part.choices[0].delta.content:
                    break
    assert ask(client, [user(LONG)]).choices[0].message.content == before


def test_a_prompt_that_does_not_fit_is_a_bad_request(serve, connect):
    client = connect(serve(*BUDGET, "-c", 512))
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        ask(client, [user(LONG)])
    assert ask(client, [user("Hello")]).usage.completion_tokens == 40
