"""Streams for asyncio."""

import asyncio
import threading
import time

import pytest
from driving import BUDGET, complete, stream, text

STARTS = text(30, seed=3)  # the model's reply to it begins with whole characters, so a stream has chunks at once


def n_streams():
    return sum(thread.name == "capkv-stream" for thread in threading.enumerate())


def wait_for_threads():
    end = time.monotonic() + 20
    while n_streams():
        assert time.monotonic() < end, "a thread goes on though nobody reads its stream"
        time.sleep(0.005)


async def joined(chunks):
    return "".join([chunk["choices"][0]["text"] async for chunk in chunks])


def test_the_chunks_are_those_of_a_stream(llm):
    expected = stream(llm, text(40), n=12)
    assert asyncio.run(joined(llm.create_completion_async(text(40), max_tokens=12, temperature=0))) == expected
    wait_for_threads()


def test_chunks_of_a_chat(make_llama, demo_model):
    llm = make_llama(demo_model, n_ctx=256)
    messages = [{"role": "user", "content": "Say hello."}]
    expected = llm.create_chat_completion(messages, max_tokens=8, temperature=0)["choices"][0]["message"]["content"]

    async def ask():
        chunks = llm.create_chat_completion_async(messages, max_tokens=8, temperature=0)
        return [chunk["choices"][0]["delta"].get("content", "") async for chunk in chunks]

    pieces = asyncio.run(ask())
    assert "".join(pieces) == expected and len(pieces) > 4


def test_several_streams_run_one_after_the_other(llm):
    expected = [stream(llm, text(60, seed=i), n=10) for i in range(5)]

    async def ask():
        streams = [llm.create_completion_async(text(60, seed=i), max_tokens=10, temperature=0) for i in range(5)]
        return await asyncio.gather(*map(joined, streams))

    assert asyncio.run(ask()) == expected


def test_the_event_loop_stays_free(llm):
    async def ask():
        n, is_over = 0, False

        async def count():
            nonlocal n
            while not is_over:
                n += 1
                await asyncio.sleep(0.001)

        counting = asyncio.create_task(count())
        await joined(llm.create_completion_async(text(3000), max_tokens=3))
        is_over = True
        await counting
        return n

    assert asyncio.run(ask()) > 20


def test_break_ends_the_generation(llm):
    async def ask():
        n = 0
        async for _ in llm.create_completion_async(STARTS, max_tokens=4000, temperature=0):
            n += 1
            if n == 2:
                break

    asyncio.run(ask())
    wait_for_threads()
    assert llm.n_tokens < 3000


def test_cancelling_a_task_ends_the_reading_of_its_prompt(llm):
    async def ask():
        task = asyncio.create_task(joined(llm.create_completion_async(text(60000), max_tokens=3, temperature=0)))
        while llm.n_tokens < 200:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    wait_for_threads()
    assert 200 <= llm.n_tokens < 60000 and llm.kv_stats().n_tokens == llm.n_tokens
    assert complete(llm, text(30)) == complete(llm, text(30))


def test_one_that_waits_can_be_cancelled(llm):
    async def ask():
        with llm.lock:
            task = asyncio.create_task(joined(llm.create_completion_async(text(40), max_tokens=3)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert n_streams() == 1

    asyncio.run(ask())
    wait_for_threads()
    assert llm.n_tokens == 0


@pytest.mark.parametrize(
    "options, kind, message",
    [
        (dict(stream=False), ValueError, r"^stream = False: allowed is True \(or leave it out\)$"),
        (dict(logprobs=3), ValueError, "logits_all=False"),
        (dict(no_such=3), TypeError, "no_such"),
    ],
)
def test_an_error_is_raised_where_the_stream_is_read(llm, options, kind, message):
    with pytest.raises(kind, match=message):
        asyncio.run(joined(llm.create_completion_async(text(10), **options)))


def test_closing_in_the_middle(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **BUDGET)

    async def ask():
        async for _ in llm.create_completion_async(STARTS, max_tokens=4000, temperature=0):
            llm.close()

    with pytest.raises(RuntimeError, match="^this Llama is closed$"):
        asyncio.run(ask())
