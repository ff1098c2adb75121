"""One Llama in several threads: calls wait for each other or say why they cannot go on, and nothing crashes."""

import inspect
import itertools
import random
import threading
import time

import pytest
from driving import BUDGET, complete, go_on, stream, text
from llama_methods import ARGUMENTS, METHODS

from capkv_edge import Llama

STALE = "^this stream has ended, since another call has changed the text"


def run(*targets, timeout=60):
    """Run functions in threads; returns what they raised, in their order."""
    errors = [None] * len(targets)

    def call(i, target):
        try:
            target()
        except BaseException as error:
            errors[i] = error

    threads = [threading.Thread(target=call, args=pair, daemon=True) for pair in enumerate(targets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread waits without an end"
    return errors


def test_completions_of_two_threads_are_those_of_one(make_llama, tiny_llama):
    llm, prompts = make_llama(tiny_llama, **BUDGET), [text(100, seed=i) for i in range(6)]
    alone = [complete(llm, prompt) for prompt in prompts]
    assert len(set(alone)) == len(prompts)
    found = {}

    def work(part):
        for i in part * 3:
            found.setdefault(i, set()).add(complete(llm, prompts[i]))

    assert run(lambda: work([0, 1, 2]), lambda: work([3, 4, 5])) == [None, None]
    assert found == {i: {reply} for i, reply in enumerate(alone)}


def test_streams_under_the_lock_are_those_of_one_thread(llm):
    alone = [stream(llm, text(80, seed=i)) for i in range(2)]
    found = [[], []]

    def work(i):
        for _ in range(3):
            with llm.lock:
                found[i].append(stream(llm, text(80, seed=i)))

    assert run(lambda: work(0), lambda: work(1)) == [None, None]
    assert found == [[alone[0]] * 3, [alone[1]] * 3]


@pytest.mark.parametrize(
    "other",
    [
        lambda llm: llm.eval([5]),
        lambda llm: llm.reset(),
        lambda llm: complete(llm, text(20)),
        lambda llm: next(llm.generate(text(20))),
        lambda llm: llm.load_state(llm.save_state()),
    ],
    ids=["eval", "reset", "completion", "generate", "load_state"],
)
def test_a_stream_says_that_others_have_changed_the_text(llm, other):
    chunks = llm.create_completion(text(30, seed=3), max_tokens=50, temperature=0, stream=True)
    next(chunks)
    assert run(lambda: other(llm)) == [None]
    with pytest.raises(RuntimeError, match=STALE):
        next(chunks)
    assert complete(llm, text(50)) == complete(llm, text(50))


def test_a_stream_goes_on_where_others_only_looked_pinned_or_compressed(llm):
    llm.eval(text(200))
    generated = llm.generate([5], reset=False, temp=0)
    tokens = [next(generated)]
    looks = [llm.kv_stats, lambda: llm.pin(0, 4), lambda: llm.unpin(), llm.save_state, lambda: llm.tokenize(b"a")]
    for look in looks:
        assert run(look) == [None]
        tokens.append(next(generated))
    assert run(lambda: llm.compress(50)) == [None]
    assert next(generated) >= 0
    llm.reset()
    llm.eval(text(200))
    assert tokens == go_on(llm, len(tokens))


def test_figures_are_there_while_a_long_text_is_read(llm):
    is_over, seen = threading.Event(), set()

    def read():
        llm.eval(text(6000))
        is_over.set()

    def look():
        while not is_over.is_set():
            seen.add(llm.kv_stats().n_tokens)

    assert run(read, look) == [None, None]
    assert len(seen) > 20 and seen <= {*range(0, 6001, 32), 6000}


def test_every_method_while_another_thread_generates(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **BUDGET)
    llm.eval(text(100))
    llm.save_session("s")
    state = llm.save_state()
    is_over, n = threading.Event(), 0

    def generate():
        nonlocal n
        while not is_over.is_set():
            complete(llm, text(40, seed=n % 5), n=5)
            n += 1

    def call_all():
        rng, names = random.Random(1), METHODS * 2
        rng.shuffle(names)
        try:
            for name in names:
                try:
                    short = {"max_tokens": 5} if "completion" in name else {}
                    done = getattr(llm, name)(*([state] if name == "load_state" else ARGUMENTS.get(name, [])), **short)
                    if inspect.isgenerator(done):
                        list(itertools.islice(done, 3))
                except (RuntimeError, ValueError) as error:  # a stale stream, a position that is gone, no embeddings
                    assert str(error)
        finally:
            is_over.set()

    assert run(generate, call_all) == [None, None]
    assert n > 1 and llm.kv_stats().n_tokens == llm.n_tokens


@pytest.mark.parametrize("seed", range(4))
def test_closing_while_others_use_it(tiny_llama, seed):
    llm = Llama(tiny_llama, verbose=False, n_threads=1, **BUDGET)
    rng = random.Random(seed)

    def use(call):
        while True:
            call()

    def close():
        time.sleep(rng.uniform(0.02, 0.2))
        llm.close()

    def stream_alone():
        with llm.lock:
            stream(llm, text(50, seed=rng.randrange(5)))

    calls = [llm.kv_stats, lambda: complete(llm, text(200)), stream_alone, lambda: llm.tokenize(b"a b"), lambda: llm.kv_positions(0, 0)]
    *errors, closed = run(*(lambda call=call: use(call) for call in calls), close)
    assert closed is None
    assert {(type(error), str(error)) for error in errors} == {(RuntimeError, "this Llama is closed")}


def test_two_threads_that_ask_one_stream(llm):
    chunks = llm.create_completion(text(30), max_tokens=60, temperature=0, stream=True)
    errors = run(lambda: list(chunks), lambda: list(chunks))
    assert all(error is None or str(error) == "generator already executing" for error in errors)
