"""/regen, /edit, /undo and /system: inside the exact tail without reading again, further back by reading anew, which is said."""

import pytest
from fake_talk import Transcript, run
from scripted import count_reads, read_back, script

from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.loop import Chat

LONG = ("word " * 60).strip()


@pytest.fixture
def make_chat(make_llama, tiny_llama):
    """A Chat on the tiny model with these replies, and its UI."""

    def make(*replies, budget=256, system="Be brief.", recall=0, **options):
        llm = make_llama(tiny_llama, kv_budget=budget, n_batch=64, **({"kv_recent": 64} if budget else {"n_ctx": 2048}), **options)
        talk, ui = Conversation(llm, system=system, recall=recall), Transcript()
        script(llm, *replies)
        return Chat(talk, ui)

    return make


def said(*turns, system="Be brief."):
    """What is in the cache after these turns, as the template has it."""
    return f"<s>[system]{system}</s>" + "</s>".join(f"[user]{asked}</s>[assistant]{reply}" for asked, reply in turns)


def test_regen_takes_the_reply_back_and_reads_nothing_but_what_begins_one(make_chat):
    chat = make_chat("first", "second", "third")
    run(chat, "one", "two")
    read = count_reads(chat.talk.llm)
    assert "\nthird\n" in run(chat, "/regen")
    assert read_back(chat.talk.llm) == said(("one", "first"), ("two", "third"))
    assert read[0] == len("</s>[assistant]") - len("</s>") + 1 and len(read) == 1 + len("third")
    assert [message.text for message in chat.talk.messages] == ["one", "first", "two", "third"]


def test_regen_with_a_seed_takes_the_next_one(make_chat):
    chat = make_chat("a", "b", "c", seed=7)
    run(chat, "one", "/regen", "/regen")
    assert chat.talk.llm._sampling_seed == 9


def test_undo_takes_back_the_turn_with_its_files(make_chat, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    chat = make_chat("first", "second", "third")
    run(chat, "one", "/read a.txt", "two")
    assert run(chat, "/undo") == '> /undo\n(took back: "a.txt: text" and "two")\n'
    assert read_back(chat.talk.llm) == said(("one", "first"))
    run(chat, "three")
    assert read_back(chat.talk.llm) == said(("one", "first"), ("three", "third"))
    run(chat, "/read a.txt", "/undo", "/undo", "/undo")
    assert chat.talk.n_tokens == 0 and not chat.talk.messages and chat.n_failed == 0
    assert "(nothing to take back: nothing was said yet)!" in run(chat, "/undo")


def test_edit_asks_another_question_behind_the_same_file(make_chat, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    chat = make_chat("first", "second", "third")
    run(chat, "/read a.txt", "what?", "/edit why?")
    assert read_back(chat.talk.llm) == said(("a.txt:\n\ntext\n\nwhy?", "second"))
    chat.ui.edited = "how?"
    assert "edit> why?\n" in run(chat, "/edit")
    assert read_back(chat.talk.llm) == said(("a.txt:\n\ntext\n\nhow?", "third"))
    chat.ui.edited = ""
    assert "(nothing was changed)\n" in run(chat, "/edit")


def test_without_a_question_that_was_answered_they_say_so(make_chat, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    chat = make_chat()
    for line in ("/regen", "/edit x", "/regen"):
        assert "(there is no question that was answered yet)!" in run(chat, line)
    assert "there is no question" in run(chat, "/read a.txt", "/regen")
    assert chat.n_failed == 4


def test_behind_the_exact_tail_the_text_before_is_read_again_and_that_is_said(make_chat):
    chat = make_chat("first", LONG, "third", "fourth")
    run(chat, LONG, "two")
    chat.talk.llm.compress()
    asked = chat.talk.messages[2].header
    tail, read = chat.talk.stats().pos_tail, count_reads(chat.talk.llm)
    shown = run(chat, "/undo")
    assert shown.startswith(
        f"> /undo\n(the cache holds every token from position {tail:,} on only, and this goes back to {asked:,}: "
        f"the {asked:,} tokens before it are read again)\n"
    )
    assert sum(read) == chat.talk.n_tokens == asked == chat.talk.turn.n_reread
    assert read_back(chat.talk.llm) == said((LONG, "first"))
    assert chat.talk.llm.pins == [(0, chat.talk.pins.n_system)]
    run(chat, "three")
    assert read_back(chat.talk.llm) == said((LONG, "first"), ("three", "third"))


def test_an_interrupt_while_reading_again_leaves_all_as_it_was(make_chat, held):
    chat = make_chat("first", LONG)
    run(chat, LONG, "two")
    chat.talk.llm.compress()
    llm, before = chat.talk.llm, read_back(chat.talk.llm)
    messages, heads = [m.text for m in chat.talk.messages], [one.tolist() for one in held(llm)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.talk.go_back(chat.talk.messages[2].header, stop)
    assert read_back(llm) == before and [one.tolist() for one in held(llm)] == heads
    assert [m.text for m in chat.talk.messages] == messages


def test_without_a_budget_going_back_never_reads_again(make_chat):
    chat = make_chat("first", LONG, "third", budget=0)
    run(chat, LONG, "two")
    read = count_reads(chat.talk.llm)
    run(chat, "/undo")
    assert read == [] and read_back(chat.talk.llm) == said((LONG, "first"))


def test_another_system_prompt_stands_first_and_all_is_read_behind_it(make_chat):
    chat = make_chat("first", "second", "third")
    run(chat, "one", "two", "/pin 2")
    pins = chat.talk.llm.pins
    shown = run(chat, "/system You are a pirate.")
    assert "(the system prompt stands before everything: the conversation is read again behind the new one)\n" in shown
    assert f"(the system prompt is another one now; {chat.talk.n_tokens:,} tokens were read again)\n" in shown
    assert read_back(chat.talk.llm) == said(("one", "first"), ("two", "second"), system="You are a pirate.")
    n_more = chat.talk.pins.n_system - pins[0][1]
    assert n_more > 0 and chat.talk.llm.pins == [(0, chat.talk.pins.n_system), *((a + n_more, b + n_more) for a, b in pins[1:])]
    assert [m.text for m in chat.talk.messages] == ["one", "first", "two", "second"]
    assert "(the system prompt is: You are a pirate.)" in run(chat, "/system")
    run(chat, "/regen")
    assert read_back(chat.talk.llm) == said(("one", "first"), ("two", "third"), system="You are a pirate.")


def test_no_system_prompt_and_one_before_anything_was_said(make_chat):
    chat = make_chat("first", "second")
    assert run(chat, "/system Be kind.") == "> /system Be kind.\n(the system prompt is another one now)\n"
    run(chat, "one")
    assert read_back(chat.talk.llm) == said(("one", "first"), system="Be kind.")
    run(chat, '/system ""')
    assert read_back(chat.talk.llm) == "<s>[user]one</s>[assistant]first" and chat.talk.llm.pins == []
    assert "(the system prompt is none)" in run(chat, "/system")


def test_what_recall_put_into_a_turn_goes_with_it(make_chat):
    chat = make_chat("ok", "first", "second", "third", budget=512, recall=256)
    fact = "My dentist is called Marlow and lives in Lisbon."
    text = fact + " " + " ".join(f"Sentence {i} is about thing {i * i}." for i in range(60))
    run(chat, text, "dentist Marlow Lisbon?")
    assert chat.talk.recall.found and "Recalled from earlier" in read_back(chat.talk.llm)
    run(chat, "/regen")  # makes another reply to the same turn, with the same passages
    assert read_back(chat.talk.llm).count("Recalled from earlier") == 1 and read_back(chat.talk.llm).endswith("[assistant]second")
    run(chat, "/undo")
    assert read_back(chat.talk.llm) == said((text, "ok"))
    run(chat, "dentist Marlow Lisbon?")
    assert chat.talk.recall.found and read_back(chat.talk.llm).endswith("[assistant]third")
