"""Conversations that are kept: another process goes on where they were, without reading anew, or says why it has to."""

import json

import pytest
from fake_talk import FakeTalk, Transcript, run
from scripted import count_reads, read_back, script

from capkv_edge.chat import keeping
from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.keeping import Keeper
from capkv_edge.chat.loop import Chat, run_chat
from capkv_edge.chat.store import Store

FACT = "My dentist is called Marlow and lives in Lisbon."
LONG = FACT + " " + " ".join(f"Sentence {i} is about thing {i * i} and place {i + 700}." for i in range(40))
QUESTION = "dentist Marlow Lisbon?"


@pytest.fixture
def make_chat(make_llama, tiny_llama, tmp_path):
    """A Chat on the tiny model that keeps its conversations."""

    def make(*replies, name=None, is_automatic=True, budget=512, system="Be brief.", **options):
        llm = make_llama(tiny_llama, kv_budget=budget, n_batch=256, **options)
        talk, ui = Conversation(llm, system=system, recall=256), Transcript()
        script(llm, *replies)
        return Chat(talk, ui, keeper=Keeper(talk, Store(tmp_path / "chats"), is_automatic, name))

    return make


def restored(state):
    """A state without what differs from run to run."""
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("evicts", [False, True])
def test_another_process_goes_on_token_for_token_and_reads_nothing_again(make_chat, held, evicts):
    one = make_chat("first", "second", "third")
    run(one, LONG, "/pin 1", QUESTION, *["/budget 300"] * evicts)
    assert one.keeper.name == "my-dentist-is-called-marlow-and"
    two = make_chat("third")
    read = count_reads(two.talk.llm)
    shown = run(two, f"/load {one.keeper.name}")
    assert shown == (
        f"> /load {one.keeper.name}\n(this is {one.keeper.name}: {one.talk.n_tokens:,} tokens, none was read again)\n"
        f"(  you: {QUESTION})\n(  the model: second)\n"
    )
    assert read == [] and two.talk.turn.n_reread == 0
    assert all((a == b).all() for a, b in zip(held(one.talk.llm), held(two.talk.llm), strict=True))
    assert one.talk.stats().n_evicted == two.talk.stats().n_evicted > 0
    assert one.talk.llm.pins == two.talk.llm.pins and len(two.talk.llm.pins) > 0
    assert restored(one.talk.state()) == restored(two.talk.state())
    run(one, "and?")
    run(two, "and?")
    assert read_back(one.talk.llm) == read_back(two.talk.llm) and read_back(two.talk.llm).endswith("[user]and?</s>[assistant]third")


def test_recall_finds_again_and_what_it_put_into_the_text_is_not_found(make_chat):
    one = make_chat("first", "second")
    run(one, LONG, QUESTION, "/budget 300")  # the passages stay in the text: tokens behind them were evicted
    two = make_chat("third", "fourth")
    run(two, f"/load {one.keeper.name}", "/budget 90", QUESTION)
    passages = two.talk.recall.found.passages
    assert FACT in passages[0].text.replace("▁", " ") and not any("Recalled" in passage.text for passage in passages)
    assert two.talk.recall.saved()["left_out"][: len(one.talk.recall.saved()["left_out"])] == one.talk.recall.saved()["left_out"]


def test_it_is_saved_after_every_turn_file_and_command(make_chat, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    chat = make_chat("first", "second")
    for line in ("one", "/read a.txt", "two", "/pin 1", "/undo"):
        run(chat, line)
        record = chat.keeper.store.read("one").record
        assert record["n_tokens"] == chat.talk.n_tokens and restored(chat.talk.state()) == {key: record[key] for key in chat.talk.state()}
        other = make_chat()
        run(other, "/load one")
        assert other.talk.llm.pins == chat.talk.llm.pins and read_back(other.talk.llm) == read_back(chat.talk.llm)


def test_two_chats_with_one_conversation_lose_nothing(make_chat):
    one = make_chat("first", "second", "third")
    run(one, "hello")
    two = make_chat("other", "more")
    run(two, "/load hello", "and here?")
    said = one.keeper.store.read("hello").record
    shown = run(one, "two", "three")
    note = "(note: another program has saved hello since, and it stays so; this conversation is kept as hello-2 now)"
    assert shown.count("note:") == 1 and note in shown
    assert one.keeper.store.read("hello").record == said and one.keeper.name == "hello-2"
    assert one.keeper.store.read("hello-2").record["n_tokens"] == one.talk.n_tokens
    run(two, "and now?")
    assert two.keeper.name == "hello" and one.keeper.store.read("hello").record["n_tokens"] == two.talk.n_tokens
    last = make_chat()
    for name, talk in (("hello", two.talk), ("hello-2", one.talk)):
        assert "none was read again" in run(last, f"/load {name}") and read_back(last.talk.llm) == read_back(talk.llm)


def test_nothing_is_saved_without_being_asked(make_chat):
    chat = make_chat("first", is_automatic=False)
    run(chat, "one")
    assert chat.keeper.store.names() == []
    assert run(chat, "/save mine") == f"> /save mine\n(saved as mine, in {chat.keeper.store.folder})\n"
    assert chat.keeper.store.names() == ["mine"]


def test_names_that_are_given(make_chat):
    chat = make_chat("first", "second", "third")
    assert "(nothing to save: nothing was said yet)!" in run(chat, "/save mine")
    run(chat, "one", "/save mine")
    assert chat.keeper.store.names() == ["mine"]  # the name that it had by itself is gone
    run(chat, "two", "/save other")
    assert sorted(chat.keeper.store.names()) == ["mine", "other"] and chat.keeper.name == "other"
    assert chat.keeper.store.read("mine").record["n_tokens"] == chat.talk.n_tokens
    assert "(mine is there already; /delete mine removes it)!" in run(chat, "/save mine")
    assert "allowed are letters" in run(chat, "/save a/b")
    listed = run(chat, "/list")
    assert "(* other  20" in listed and "(  mine   20" in listed and f"{chat.talk.n_tokens:,} tokens  tiny-llama.gguf)" in listed
    assert "(other is this conversation; /clear begins another one)!" in run(chat, "/delete other")
    assert "(deleted mine)" in run(chat, "/delete mine") and chat.keeper.store.names() == ["other"]
    assert "(/load needs a name; /list has those that are kept)!" in run(chat, "/load")
    assert "(no conversation is called nope; /list has those that are kept)!" in run(chat, "/load nope")


def test_clear_begins_another_one_and_load_goes_back(make_chat):
    chat = make_chat("first", "second")
    run(chat, "one")
    before = read_back(chat.talk.llm)
    assert "(cleared; /load one goes back to what was said)" in run(chat, "/clear")
    run(chat, "other")
    assert sorted(chat.keeper.store.names()) == ["one", "other"]
    run(chat, "/load one")
    assert read_back(chat.talk.llm) == before and chat.keeper.name == "one"


@pytest.mark.parametrize(
    "options, why",
    [
        (dict(kv_policy="streaming"), "its kv_policy is capkv, here it is streaming"),
        (dict(budget=0, n_ctx=4096), "it was saved with a KV budget"),
        (dict(budget=100, kv_recent=16, kv_headroom=256), "cells, here there are"),
    ],
)
def test_where_the_session_does_not_fit_the_text_is_read_again_and_that_is_said(make_chat, options, why):
    one = make_chat("first", "second")
    run(one, LONG, "two")
    two = make_chat("third", **options)
    shown = run(two, f"/load {one.keeper.name}")
    assert f"its text was read again, {two.talk.n_tokens:,} tokens: " in shown and why in shown
    assert [m.text for m in two.talk.messages] == [m.text for m in one.talk.messages]
    assert read_back(two.talk.llm) == read_back(one.talk.llm) and two.talk.turn.n_reread == two.talk.n_tokens
    run(two, "and?")
    assert read_back(two.talk.llm).endswith("[user]and?</s>[assistant]third")


def test_a_session_that_is_lost_damaged_or_older_than_the_text(make_chat, monkeypatch):
    one = make_chat("first", "second")
    run(one, "one")
    store = one.keeper.store
    session = store.session(store.read("one"))
    data = bytearray(session.read_bytes())
    data[-1] ^= 1
    session.write_bytes(data)
    two = make_chat()
    assert "it is damaged: its checksum does not match" in run(two, "/load one") and read_back(two.talk.llm) == read_back(one.talk.llm)
    session.unlink()
    two = make_chat(is_automatic=False)
    assert "there is no session of it" in run(two, "/load one") and read_back(two.talk.llm) == read_back(one.talk.llm)
    one.keeper.save()
    monkeypatch.setattr(keeping, "SLOW", 0)
    one.keeper.save()
    run(one, "two")
    two = make_chat(is_automatic=False)
    assert "its session is older than its text" in run(two, "/load one") and read_back(two.talk.llm) == read_back(one.talk.llm)


def test_a_session_that_takes_long_is_saved_at_the_end_alone(make_chat, monkeypatch):
    monkeypatch.setattr(keeping, "SLOW", 0)
    chat = make_chat("first", "second")
    saved, save = [], chat.talk.llm.save_session
    monkeypatch.setattr(chat.talk.llm, "save_session", lambda path: (saved.append(chat.talk.n_tokens), save(path)))
    run(chat, "one")
    n = chat.talk.n_tokens
    run(chat, "two")
    assert saved == [n]
    chat.finish()
    assert saved == [n, chat.talk.n_tokens]
    chat.finish()
    assert len(saved) == 2


def test_a_damaged_text_is_refused_and_the_chat_goes_on(make_chat):
    chat = make_chat("first", "second")
    run(chat, "one")
    path = chat.keeper.store.folder / "one.json"
    record = json.loads(path.read_text())
    for name, value in (("messages", [{"who": "me"}]), ("messages", 5), ("unread", ["x"]), ("recall", {}), ("system", 5), ("open", None)):
        (chat.keeper.store.folder / "bad.json").write_text(json.dumps({**record, name: value}))
        other = make_chat("third", is_automatic=False)
        shown = run(other, "/load bad", "/clear", "hello")
        assert "third\n" in shown and "Traceback" not in shown


def test_a_disk_that_is_full_is_said_once(make_chat, monkeypatch):
    chat = make_chat("first", "second")

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(chat.talk.llm, "save_session", full)
    shown = run(chat, "one", "two")
    assert shown.count("(the conversation cannot be saved, and is not from here on: [Errno 28] No space left on device") == 1
    assert "second\n" in shown


def test_without_a_keeper_the_commands_say_so():
    talk, ui = FakeTalk(), Transcript("/save a", "/load a", "/list", "/delete a")
    assert run_chat(talk, ui) == 4 and ui.shown.count(": conversations are not kept here)!") == 4
