"""/kept and /why: the shares that they show are those of the heads' positions, and words are found where they stand."""

import numpy as np
import pytest
from fake_talk import Transcript, run
from scripted import script

from capkv_edge.chat import kept
from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.loop import Chat

LONG = ("Ein Wort, " * 30 + "Straße und Käse, " + "noch eins, " * 30).strip()


@pytest.fixture
def make_chat(make_llama, tiny_llama):
    def make(*replies, budget=128, **options):
        llm = make_llama(tiny_llama, n_batch=64, **({"kv_budget": budget, "kv_recent": 16} if budget else {"n_ctx": 4096}), **options)
        talk, ui = Conversation(llm, system="Be brief."), Transcript()
        script(llm, *replies)
        return Chat(talk, ui)

    return make


def test_the_whole_text_is_shown_with_the_share_of_heads_that_hold_each_token(make_chat, held):
    chat = make_chat("fine", "good")
    run(chat, LONG, "and?")
    talk = chat.talk
    counts = sum(np.isin(np.arange(talk.n_tokens), positions) for positions in held(talk.llm)) / 4
    found = kept.shaded(talk)
    assert [title.split(",")[0] for title, _ in found] == ["you", "the model", "you", "the model"]
    title, pieces = found[0]
    asked, reply = talk.messages[:2]
    assert f"held by {counts[asked.content : reply.header].mean():.0%} of the heads on average" in title
    shares = [share for text, share in pieces if share is not None for _ in text]
    assert {0, 1} < set(shares) <= {0, 0.25, 0.5, 0.75, 1}
    shown = "".join(text for text, share in pieces if share is not None)
    n_folded = sum(int(text.split()[0].strip("[").replace(",", "")) for text, share in pieces if share is None)
    assert shown.replace("▁", " ") in LONG or n_folded > 0
    assert len(shown.replace("▁", " ").encode()) + n_folded >= len(LONG.encode()) > 0  # a blank is three tokens here


def test_runs_that_hardly_any_head_holds_are_folded(make_chat, monkeypatch):
    chat = make_chat("fine")
    run(chat, "x" * 300)
    shares = np.ones(chat.talk.n_tokens, dtype=np.float32)
    begin = chat.talk.messages[0].content
    shares[begin + 10 : begin + 110] = 0.01
    shares[begin + 200 : begin + 240] = 0
    monkeypatch.setattr(chat.talk.llm, "kv_kept", lambda: shares)
    (_, pieces), _ = kept.shaded(chat.talk)
    assert pieces[:3] == [("x" * 10, 1.0), ("[100 tokens, held by 1% of the heads]", None), ("x" * 90, 1.0)]
    assert pieces[3] == ("x" * 40, 0.0)  # too short to be folded


def test_a_character_of_several_tokens_is_shown_whole_with_the_least_of_their_shares(make_chat):
    chat = make_chat("fine")
    run(chat, "aßb")
    begin = chat.talk.messages[0].content
    shares = np.ones(chat.talk.n_tokens, dtype=np.float32)
    shares[begin + 2] = 0.5  # the second byte of ß
    assert kept.pieces(chat.talk, begin, begin + 4, shares) == [("a", 1.0), ("ß", 0.5), ("b", 1.0)]


def test_the_last_messages_alone(make_chat):
    chat = make_chat("fine", "good")
    run(chat, "one", "two")
    assert run(chat, "/kept 1").splitlines()[1].startswith("(the model, positions ")
    assert len(kept.shaded(chat.talk, 3)) == 3 and len(kept.shaded(chat.talk, 99)) == 4
    for wrong in ("0", "-1", "x"):
        assert f"(/kept {wrong}: allowed is a number of messages, 1 or more)!" in run(chat, f"/kept {wrong}")


def test_why_says_where_words_stand_and_how_many_heads_hold_them(make_chat, held):
    chat = make_chat("fine", "good")
    run(chat, LONG, "/budget 64")
    ((title, pieces),) = kept.places(chat.talk, "STRASSE".replace("SS", "ß"))
    begin = int(title.split()[1])
    text = chat.talk.text(chat.talk.llm.input_ids[begin : begin + 7].tolist())
    assert text == "Straße"
    n_all = sum(bool(np.isin(np.arange(begin, begin + 7), one).all()) for one in held(chat.talk.llm))
    share = chat.talk.llm.kv_kept()[begin : begin + 7].mean()
    assert title == (
        f"positions {begin:,} to {begin + 6:,} (you): {n_all} of 4 KV heads hold all of it, {share:.0%} on average; "
        "in the middle, where each head has its own choice"
    )
    assert "Straße" in "".join(text for text, _ in pieces)


def test_why_tells_pins_tail_sinks_and_who(make_chat):
    chat = make_chat("fine", "good day")
    run(chat, "hello", LONG)
    assert "(the system prompt): 4 of 4 KV heads hold all of it, 100% on average; pinned" in run(chat, "/why brief")
    assert "(the model): 4 of 4 KV heads hold all of it, 100% on average; in the exact tail" in run(chat, "/why day")
    chat.talk.llm.unpin()
    assert "; among the sinks)" in run(chat, "/why [s")
    assert "(nowhere in the conversation: nothing like it)!" in run(chat, "/why nothing like it")
    assert "(/why needs words that were said: /why WORDS)!" in run(chat, "/why")
    shown = run(chat, "/why Wort")
    assert shown.count("KV heads hold all of it") == 8 and "(and in 22 places before)" in shown


def test_without_a_budget_or_a_text_they_say_so(make_chat):
    chat = make_chat(budget=0)
    for line in ("/kept", "/why x", "/budget 5", "/policy"):
        assert "(there is no budget: nothing is evicted" in run(chat, line)
    assert "(nothing was said yet)!" in run(make_chat(), "/kept")
