"""Recall in a conversation: passages stand at the end of the user's turn, are shown, and leave the cache after the reply."""

from types import SimpleNamespace

import pytest
from fake_talk import FakeTalk, Transcript

from capkv_edge.chat import recalling
from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.loop import FORGETS, RECALLS, run_chat
from capkv_edge.chat.recalling import TurnRecall, recalled_line
from capkv_edge.recall.archive import Passage
from capkv_edge.recall.choice import Hit, Recalled
from capkv_edge.recall.index import NoIndexError

FACT = "My dentist is called Marlow and lives in Lisbon."
QUESTION = "dentist Marlow Lisbon?"
LONG = f"{FACT} " + " ".join(f"Sentence {i} is about thing {i * i} and place {i + 700}." for i in range(40))
MARK = "[Recalled from earlier in this conversation:"


@pytest.fixture
def make_talk(make_llama, tiny_llama):
    """A Conversation that has read LONG. A token is a byte here."""

    def make(recall=256, budget=512, **options):
        talk = Conversation(make_llama(tiny_llama, kv_budget=budget, n_batch=256, **options), temp=0, max_tokens=20, recall=recall)
        talk.read(LONG)
        talk.ask("Right?")
        list(talk.reply())
        return talk

    return make


def text_of(talk, begin=0):
    """What was read from a position on, with control tokens as "|"."""
    tokens = talk.llm.input_ids[begin : talk.n_tokens].tolist()
    return b"".join(b"|" if t < 3 else bytes([t - 3]) for t in tokens).decode(errors="replace").replace("▁", " ")


def test_what_was_evicted_comes_back_at_the_end_of_the_turn(make_talk):
    talk = make_talk()
    talk.ask(QUESTION)
    _, _, back = text_of(talk).partition(f"[user]{QUESTION}\n\n{MARK}\n")
    assert FACT in back and back.endswith("\n]|[assistant]")
    (passage,) = talk.recall.found.passages
    assert passage.begin < 20 and FACT in passage.text.replace("▁", " ")


def test_no_head_evicts_it_while_the_reply_is_made(make_talk):
    talk = make_talk(recall=200)
    talk.settings.max_tokens = 900
    talk.ask(QUESTION)
    begin, end = talk.recall._place
    n_evicted, n_least = talk.stats().n_evictions, 1.0
    for _ in talk.reply():
        n_least = min(n_least, talk.llm.kv_kept()[begin:end].min())
    assert talk.stats().n_evictions > n_evicted and n_least == 1
    assert talk.pins.ranges == []


def test_after_the_reply_the_conversation_is_as_if_nothing_had_come_back(make_talk):
    talk, plain = make_talk(), make_talk(recall=0)
    talk.ask(QUESTION)
    said = "".join(talk.reply())
    n = talk.n_tokens
    talk.ask("And then?")
    found = text_of(talk)
    assert MARK not in found and talk.n_tokens < n
    assert found.endswith(f"[user]{QUESTION}|[assistant]{said}|[user]And then?|[assistant]") or said == ""
    plain.ask(QUESTION)
    assert found.startswith(text_of(plain)) and talk.recall.found is None
    assert talk.stats().n_tokens == talk.n_tokens


@pytest.mark.parametrize("stays", [False, True], ids=["taken out", "stays"])
def test_messages_are_pinned_where_they_are(make_talk, stays):
    talk = make_talk()
    talk.ask(QUESTION)
    said = "".join(talk.reply())
    if stays:
        talk.llm.compress()
    talk.ask("And then?")
    assert (MARK in text_of(talk)) == stays
    replied, asked, last = talk.pins._said[-3:]
    assert text_of(talk, replied.header) == f"|[assistant]{said}|[user]And then?|[assistant]"
    assert text_of(talk, asked.content) == "And then?|[assistant]" and text_of(talk, last.header) == "|[assistant]"


def test_a_question_that_needs_nothing_gets_nothing(make_talk):
    talk = make_talk()
    talk.ask("Go on.")
    assert talk.recall.found is None and MARK not in text_of(talk)


def test_what_cannot_be_taken_out_stays_and_is_not_found_as_conversation(make_talk):
    talk = make_talk()
    talk.ask(QUESTION)
    list(talk.reply())
    talk.llm.compress()
    assert talk.recall.take_out() == []
    talk.ask("And then?")
    assert text_of(talk).count(MARK) == 1
    talk.read("other words " * 40)
    hits = [hit.passage for hit, _ in talk.recall.search("dentist Marlow")]
    begin, end = talk.recall._recall.left_out[-1]
    assert hits and all(passage.end <= begin or end <= passage.begin for passage in hits)


def test_an_interrupt_while_a_reply_is_read_again_loses_nothing_of_it(make_talk):
    talk = make_talk()
    talk.ask(QUESTION)
    list(talk.reply())
    begin, end = talk.recall._place
    behind = talk.llm.input_ids[end : talk.n_tokens].tolist() + talk._unread
    talk.llm.n_batch = len(behind) // 2

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("And then?", stop)
    assert talk.n_tokens == begin + len(behind) // 2 and not talk._open
    talk.ask("So what?")
    assert talk.llm.input_ids[begin : begin + len(behind)].tolist() == behind
    assert text_of(talk).endswith("|[user]So what?|[assistant]")


def test_an_interrupt_while_passages_are_read_keeps_the_turn_open(make_talk):
    talk = make_talk()
    talk.llm.n_batch = 64

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask(QUESTION, stop)
    n = talk.n_tokens
    assert MARK[:9] in text_of(talk) and talk.recall._recall.left_out[-1][1] == n
    talk.ask(QUESTION)
    assert text_of(talk).count("[user]") == 2


def test_room_is_made_before_so_that_passages_can_be_taken_out(make_talk):
    talk = make_talk()
    while talk.stats().n_cells - talk.stats().n_used > 100:
        talk.read("some more words. ")
    n_evictions = talk.stats().n_evictions
    talk.ask(QUESTION)
    list(talk.reply())
    assert talk.stats().n_evictions == n_evictions + 1
    talk.ask("And then?")
    assert MARK not in text_of(talk)


def test_a_question_that_just_fits_is_not_refused_for_what_comes_back_with_it(make_talk):
    talk = make_talk(n_ctx=2816)
    assert 100 < 2816 - talk.n_tokens < 300
    talk.ask(QUESTION)
    assert talk.recall.found is None and MARK not in text_of(talk)


def test_cleared_is_cleared(make_talk):
    talk = make_talk()
    talk.ask(QUESTION)
    talk.clear()
    talk.ask(QUESTION)
    assert MARK not in text_of(talk) and talk.recall.search("dentist") == []


def test_it_is_off_without_a_budget_or_a_quota_and_says_why_where_sqlite_cannot(make_talk, make_llama, tiny_llama, monkeypatch):
    assert not make_talk(recall=0).recall.is_on
    full = make_talk(budget=0, n_ctx=4096)
    assert not full.recall.is_on and full.recall.remark == ""
    full.ask("And?")

    def refuse(*args):
        raise NoIndexError("SQLite 3.0 has no full text search (FTS5) here: no such module")

    monkeypatch.setattr(recalling, "Recall", refuse)
    talk = make_talk()
    assert not talk.recall.is_on
    assert "recall is off: SQLite 3.0 has no full text search (FTS5) here: no such module" in talk.remarks()
    talk.ask(QUESTION)


# --- what is shown ---

ONE = Passage(1204, 1323, "The dentist is Marlow, who lives\nin Lisbon with two dogs, a cat and three goldfish.")
TWO = Passage(9, 20, "A boat.")


def test_the_line_about_what_came_back():
    assert recalled_line(Recalled((ONE,), "")) == (
        'recalled 1 passage (positions 1,204 to 1,322): "The dentist is Marlow, who lives in Lisbon with two dogs, a..."'
    )
    assert recalled_line(Recalled((TWO, ONE), "")).startswith(
        'recalled 2 passages (positions 9 to 19 and 1,204 to 1,322): "A boat." "The dentist'
    )


def shown(recall, *inputs, replies=(["Marlow"],)):
    talk, ui = FakeTalk(replies), Transcript(*inputs)
    talk.recall = recall
    n_failed = run_chat(talk, ui)
    return ui.shown, n_failed


def test_the_chat_shows_it_above_the_reply():
    recall = SimpleNamespace(found=Recalled((TWO,), ""), is_on=True)
    text, _ = shown(recall, "Which boat?")
    assert text.startswith('> Which boat?\n(recalled 1 passage (positions 9 to 19): "A boat.")\nMarlow\n')


def test_a_search_by_hand():
    recall = SimpleNamespace(found=None, is_on=True, search=lambda text: [(Hit(ONE, 2, 1), True), (Hit(TWO, 1, 0.5), False)])
    text, n_failed = shown(recall, "/recall dentist boat")
    assert n_failed == 0 and text == (
        "> /recall dentist boat\n(positions 1,204 to 1,322, evicted: The dentist is Marlow, who lives in Lisbon with two dogs, a cat "
        "and three goldfish.)\n(positions 9 to 19, still held: A boat.)\n"
    )
    recall.search = lambda text: []
    assert "(nothing of what has left the exact tail has these words: cat)\n" in shown(recall, "/recall cat")[0]


def test_a_search_that_cannot_be_made_says_why():
    off = SimpleNamespace(found=None, is_on=False, remark="")
    assert shown(off, "/recall x") == ("> /recall x\n(recall is off: it needs a budget and --recall above 0)!\n", 1)
    off.remark = "recall is off: SQLite"
    assert "(recall is off: SQLite)!\n" in shown(off, "/recall x")[0]
    on = SimpleNamespace(found=None, is_on=True)
    assert "(/recall needs words to search for: /recall QUERY)!\n" in shown(on, "/recall")[0]


def test_the_note_about_forgetting_says_that_the_text_can_be_searched(tmp_path):
    (tmp_path / "long.txt").write_text("word " * 299)
    text, _ = shown(SimpleNamespace(found=None, is_on=True), "/read long.txt")
    assert f"({FORGETS.format(budget=256)}{RECALLS})\n" in text


def test_a_turn_without_recall_costs_nothing(make_llama, tiny_llama):
    recall = TurnRecall(make_llama(tiny_llama, kv_budget=128, n_batch=64), 0)
    assert recall.find("anything", 5) == "" and recall.take_out() == [] and recall.found is None
