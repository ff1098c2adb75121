"""The question that a conversation is read for: /focus, and a prompt that is known before a file is read."""

import re

import pytest
from commands import runner
from fake_talk import Transcript, run
from scripted import script

from capkv_edge.chat import cli
from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.keeping import Keeper
from capkv_edge.chat.loop import Chat
from capkv_edge.chat.store import Store

FAST = ["--threads", "1", "--temp", "0", "--max-tokens", "5", "--budget", "600", "--seed", "1"]
NOTHING = "(no question takes part in what is evicted)\n"


@pytest.fixture
def make_chat(make_llama, tiny_llama, tmp_path):
    """A Chat on the tiny model; replies are what the model says. `asked` of its llm lists the tokens of each question."""

    def make(*replies, is_automatic=False, **options):
        llm = make_llama(tiny_llama, kv_budget=512, n_batch=256, **options)
        talk = Conversation(llm, system="Be brief.", recall=256)
        script(llm, *replies)
        llm.asked, focus = [], llm.focus
        llm.focus = lambda tokens: llm.asked.append(tokens) or focus(tokens)
        return Chat(talk, Transcript(), keeper=Keeper(talk, Store(tmp_path / "chats"), is_automatic))

    return make


def read_back(tokens):
    special = {1: b"<s>", 2: b"</s>"}
    return b"".join(special.get(token) or bytes([token - 3]) for token in tokens).decode().replace("▁", " ")


def test_it_is_shown_replaced_and_ended(make_chat):
    chat = make_chat()
    shown = run(chat, "/focus", "/focus who came?", "/focus", "/focus off", "/focus")
    held = '(30 tokens of a question take part in what is evicted: "who came?")\n'
    assert shown == (
        f"> /focus\n{NOTHING}> /focus who came?\n{held}> /focus\n{held}> /focus off\n{NOTHING}> /focus\n{NOTHING}"
    )
    assert chat.n_failed == 0 and chat.talk.n_tokens == 0 and chat.talk.llm.n_focus == 0


def test_it_is_read_as_the_turn_that_comes_next(make_chat):
    chat = make_chat("first", "second")
    talk, llm = chat.talk, chat.talk.llm
    talk.look_for("who?")
    run(chat, "one")
    talk.look_for("who?")
    talk.read("a file")
    n, before = talk.n_tokens, llm.input_ids[: talk.n_tokens].tolist()
    talk.look_for("who?")
    assert [read_back(tokens) for tokens in llm.asked] == [
        "<s>[system]Be brief.</s>[user]who?</s>[assistant]",
        "</s>[user]who?</s>[assistant]",
        "who?</s>[assistant]",
    ]
    assert talk.n_tokens == n and llm.input_ids[:n].tolist() == before
    run(chat, "two")
    assert read_back(llm.input_ids[: talk.n_tokens].tolist()).endswith("[user]a filetwo</s>[assistant]second")
    assert llm.pins == [(0, len("<s>[system]Be brief.</s>[user]") - 5 + 2)]


def test_clear_ends_it_and_undo_does_not(make_chat):
    chat = make_chat("first")
    run(chat, "/focus who came?", "one", "/undo")
    assert chat.talk.focus.text == "who came?" and chat.talk.llm.n_focus == 30 and chat.talk.n_tokens == 0
    assert run(chat, "/clear", "/focus") == f"> /clear\n(cleared)\n> /focus\n{NOTHING}"
    assert chat.talk.llm.n_focus == 0


def test_a_kept_conversation_holds_it(make_chat):
    one = make_chat("first", is_automatic=True)
    run(one, "one " * 200, "/focus who came?")
    name = one.keeper.name
    two = make_chat()
    run(two, "/focus other", f"/load {name}")
    assert two.talk.focus.text == "who came?" and two.talk.llm.n_focus == 30
    # under another policy the text is read again: with the question if it can be
    for policy, text, n in (("h2o", "who came?", 21), ("snapkv", "", 0)):
        three = make_chat(kv_policy=policy)
        shown = run(three, f"/load {name}")
        assert "read again" in shown and three.talk.focus.text == text and three.talk.llm.n_focus == n
    one.talk.focus.drop()
    one.keeper.save()
    run(two, f"/load {name}")
    assert two.talk.focus.text == "" and two.talk.llm.n_focus == 0


def test_what_cannot_be_is_told(make_chat, make_llama, tiny_llama):
    chat = make_chat(kv_policy="streaming")
    shown = run(chat, "/focus who came?", "/focus")
    assert chat.n_failed == 1 and "(focus: kv_policy = streaming keeps no sample of queries: allowed is capkv, h2o)!" in shown
    assert shown.endswith(NOTHING)
    full = Chat(Conversation(make_llama(tiny_llama)), Transcript())
    assert run(full, "/focus who?", "/focus").count("(there is no budget: nothing is evicted)!") == 2
    assert run(full, "/clear") == "> /clear\n(cleared)\n"


@pytest.fixture
def chat(capfd):
    return runner(cli.main, capfd)


def test_a_prompt_is_known_before_the_files_are_read(chat, tiny_llama, tmp_path):
    (tmp_path / "a.txt").write_text("word " * 400)
    known = "30 tokens of the question take part in what is evicted of the file (--no-focus)"
    args = [tiny_llama, "-f", "a.txt", "-p", "who came to the house?", *FAST]
    status, _, err = chat(*args)
    assert status == 0 and err.count(known) == 1 and err.index(known) < err.index("read 2,8")
    for more in (["--no-focus"], ["--budget", "0", "--ctx", "4096"]):
        status, _, err = chat(*args, *more)
        assert status == 0 and "take part" not in err
    status, _, err = chat(tiny_llama, "-p", "hello", *FAST)
    assert status == 0 and "take part" not in err
    # of several prompts the first, with its rows of the sample for itself
    assert chat(*[one for one in args if one != "--no-history"], "-p", "and when?", "--name", "work")[0] == 0
    (kept,) = tmp_path.rglob("work.json")
    assert '"who came to the house?"' in re.search(r'"focus": *"[^"]*"', kept.read_text())[0]
    status, _, err = chat(*args, "--policy", "snapkv")
    assert status == 0 and re.search("note: the question does not take part in .*: focus: kv_policy = snapkv keeps no sample", err)
