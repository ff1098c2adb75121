"""Pins of a conversation: the system prompt, and messages with the template's text around them."""

import numpy as np
import pytest
from fake_talk import Transcript

from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.figures import cost_lines
from capkv_edge.chat.loop import Chat, run_chat

SYSTEM = "Be brief."
N_SYSTEM = len("<s>[system]Be brief.</s>[user]") - len("<s></s>") + 2 + 2  # a token for each byte, two control tokens; a space is 3 bytes


@pytest.fixture
def llm(make_llama, tiny_llama):
    return make_llama(tiny_llama, kv_budget=256, kv_recent=16, n_batch=32)


def script(llm, *replies):
    """Make the random model give these replies, each with </s> at its end."""
    left = list(replies)

    def generate(tokens, **options):
        for char in left.pop(0).encode():
            yield char + 3
            llm.eval([char + 3])
        yield 2

    llm.generate = generate


def text_of(llm, start, stop):
    special = {1: b"<s>", 2: b"</s>"}
    tokens = llm.input_ids[start:stop].tolist()
    return b"".join(special.get(token) or bytes([token - 3]) for token in tokens).decode().replace("▁", " ")


def said(llm, *turns, system=SYSTEM):
    """A conversation in which (question, reply) were said."""
    script(llm, *(reply for _, reply in turns))
    talk = Conversation(llm, system=system)
    for question, _ in turns:
        talk.ask(question)
        list(talk.reply())
    return talk


def commands(talk, *lines):
    ui = Transcript(*lines)
    n_failed = run_chat(talk, ui, Chat(talk, ui))
    return ui.shown, n_failed


def test_the_system_prompt_is_pinned_with_its_template(llm, held):
    talk = said(llm, ("what?", "this"), ("word " * 100, "that"))
    assert llm.pins == [(0, talk.pins.n_system)] and talk.pins.n_system == N_SYSTEM
    assert text_of(llm, 0, N_SYSTEM) == "<s>[system]Be brief.</s>[user]"
    llm.compress()
    assert llm.kv_stats().n_evicted and all(np.isin(range(N_SYSTEM), row).all() for row in held(llm))
    assert cost_lines(talk)[0] == (
        f"budget: 256 tokens per KV head; the first 4, the last 16 and the system prompt ({N_SYSTEM} tokens) always stay"
    )
    talk.clear()
    assert llm.pins == [(0, N_SYSTEM)] and llm.n_tokens == 0


@pytest.mark.parametrize("system", ["", None])
def test_without_a_system_prompt_nothing_is_pinned(llm, system):
    talk = said(llm, ("what?", "this"), system=system)
    assert llm.pins == [] and talk.pins.n_system == 0
    assert cost_lines(talk)[0] == "budget: 256 tokens per KV head; the first 4 and the last 16 always stay"
    assert commands(talk, "/pins")[0] == "> /pins\n(nothing is pinned)\n"


def test_messages_are_pinned_with_the_headers_of_their_roles(llm):
    talk = said(llm, ("one", "first"), ("my number is 7731", "noted"))
    shown, n_failed = commands(talk, "/pin")
    end = llm.n_tokens + len("[user]") + 1
    start, stop = llm.pins[-1]
    assert stop == end and text_of(llm, start, llm.n_tokens) == "</s>[assistant]noted"
    n_left = 256 - 20 - (N_SYSTEM - 4) - (stop - start)
    assert n_failed == 0 and shown == (
        "> /pin\n(pinned:)\n"
        f'(  the model, positions {llm.n_tokens - 5} to {llm.n_tokens - 1}: "noted")\n'
        f"({N_SYSTEM + stop - start} tokens are pinned, which leaves {n_left} of the budget of 256 to choose from)\n"
    )
    shown, _ = commands(talk, "/pin 2", "/pins")
    start, stop = llm.pins[-1]
    assert text_of(llm, start, llm.n_tokens) == "</s>[user]my number is 7731</s>[assistant]noted"
    assert shown.count('you, positions 54 to 76: "my▁number..."') == 2 and shown.count('the model, positions 89 to 93: "noted"') == 2
    assert f"(  the system prompt, positions 0 to {N_SYSTEM - 1})" in shown
    shown, _ = commands(talk, "/unpin", "/pins")
    assert llm.pins == [(0, N_SYSTEM)] and f"({N_SYSTEM} tokens are pinned" in shown and "you" not in shown


def test_more_messages_than_there_are_and_a_turn_that_is_open(llm):
    talk = said(llm, ("one", "first"))
    talk.read("a file")
    shown, _ = commands(talk, "/pin")
    start, stop = llm.pins[-1]
    assert stop == llm.n_tokens and text_of(llm, start, stop) == "</s>[user]a file"
    commands(talk, "/pin 99")
    assert llm.pins == [(0, llm.n_tokens)]


def test_what_is_pinned_stays_to_the_end(llm, held):
    talk = said(llm, ("my number is 7731", "noted"))
    commands(talk, "/pin 2")
    (_, stop), = llm.pins
    for _ in range(20):
        script(llm, "so it is")
        talk.ask("talk " * 20)
        list(talk.reply())
    assert llm.kv_stats().n_evictions > 3 and llm.pins == [(0, stop)]
    assert all(np.isin(range(stop), row).all() for row in held(llm))
    assert text_of(llm, 0, stop).endswith("7731</s>[assistant]noted</s>[user]")


def test_what_cannot_be_pinned_is_told(llm, make_llama, tiny_llama):
    talk = said(llm, ("first " * 8, "ok"), ("word " * 70, "ok"))
    for _ in range(3):
        talk.ask("word " * 20)
    shown, n_failed = commands(talk, "/pin x", "/pin 0", "/pin -1", "/pin 99")
    assert n_failed == 4 and shown.count("allowed is a number of messages, 1 or more") == 3
    assert "some KV heads have dropped the tokens [" in shown and llm.pins == [(0, N_SYSTEM)]
    talk = said(llm, ("word " * 33, "ok"))
    shown, n_failed = commands(talk, "/pin 2")
    assert n_failed == 1 and "pinned tokens, kv_sink = 4 and kv_recent = 16 leave" in shown
    talk.clear()
    shown, n_failed = commands(talk, "/pin")
    assert n_failed == 1 and "(nothing to pin: nothing was said yet)!" in shown
    full = Conversation(make_llama(tiny_llama))
    shown, n_failed = commands(full, "/pin", "/pins", "/unpin")
    assert n_failed == 1 and shown.count("there is no budget: nothing is evicted") == 3


def test_a_system_prompt_that_is_too_long_is_told_and_the_chat_goes_on(llm):
    talk = Conversation(llm, system="word " * 50)
    (note,) = [line for line in talk.remarks() if "system prompt" in line]
    assert note.startswith("the system prompt is not pinned and may be evicted: pin [0, 366): 362 pinned tokens, kv_sink = 4")
    assert llm.pins == [] and talk.pins.n_system == 0
    script(llm, "ok")
    talk.ask("what?")
    assert "".join(talk.reply()) == "ok"
