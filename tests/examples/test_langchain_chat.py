"""The chat model for LangChain."""

import pytest
from examples_under_test import load_example

langchain_chat = load_example("langchain_chat")

QUESTION = [("system", "Answer in one word."), ("human", "What is the capital of France?")]


@pytest.fixture
def model(make_llama, demo_model):
    llm = make_llama(demo_model, kv_budget=96, n_batch=32, kv_headroom=32)
    return langchain_chat.CapkvChat(llm=llm, options=dict(max_tokens=12, temperature=0))


def test_a_reply_and_its_stream(model):
    reply = model.invoke(QUESTION)
    assert "Paris" in reply.content
    assert reply.usage_metadata["output_tokens"] > 0 and reply.response_metadata["finish_reason"] in ("stop", "length")
    chunks = [chunk.content for chunk in model.stream(QUESTION)]
    assert "".join(chunks) == reply.content and len([chunk for chunk in chunks if chunk]) > 1


def test_a_stop_word(model):
    assert "Paris" not in model.invoke(QUESTION, stop=["Par"]).content


def test_a_text_that_is_longer_than_the_cache(model):
    colours = "red blue green grey white black pink brown".split()
    text = "\n\n".join(f"Room {i} is painted {colour}, and a cat sleeps in it." for i, colour in enumerate(colours))
    assert langchain_chat.sections(text, n_chars=60) == text.split("\n\n")
    assert len(langchain_chat.sections(text, n_chars=120)) == 4
    replies = list(langchain_chat.summarize(model, text, n_chars=60))
    now = model.llm.kv_stats()
    assert len(replies) == len(colours) and all(replies)
    assert now.n_evicted > 0 and now.n_used <= now.n_cells < now.n_tokens
