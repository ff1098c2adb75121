"""The chat loop: whole transcripts with a fake model, and sixty turns with a real one."""

import pytest
from fake_talk import FakeTalk, Transcript

from capkv_edge.chat.figures import cost_lines, toolbar, turn_line
from capkv_edge.chat.loop import Chat, FORGETS, clean, is_complete, run_chat
from capkv_edge.chat.conversation import Conversation, Turn


def transcript(talk, *inputs):
    ui = Transcript(*inputs)
    n_failed = run_chat(talk, ui)
    return ui.shown, n_failed


def test_a_chat():
    talk = FakeTalk([["Hel", "lo"], ["4"]])
    assert transcript(talk, "hi there", "", "2 + 2?", "/exit", "never said") == (
        "> hi there\n"
        "Hello\n"
        "(20.0 tokens/s · 4 of 384 cells used (budget 256) · 0 of 4 tokens evicted)\n"
        "> \n"
        "> 2 + 2?\n"
        "4\n"
        "(10.0 tokens/s · 8 of 384 cells used (budget 256) · 0 of 8 tokens evicted)\n"
        "> /exit\n",
        0,
    )
    assert talk.said == ["hi there", "2 + 2?"]


def test_reading_a_file_and_the_one_note_about_forgetting(tmp_path):
    (tmp_path / "long.txt").write_text("word " * 299)
    talk = FakeTalk([["ok"], ["no"]])
    assert transcript(talk, "/read long.txt", "what?", "and?") == (
        "> /read long.txt\n"
        "(read 300 tokens of long.txt (600 tokens/s); now ask about it)\n"
        f"({FORGETS.format(budget=256)})\n"
        "> what?\n"
        "ok\n"
        "(10.0 tokens/s · 256 of 384 cells used (budget 256) · 46 of 302 tokens evicted)\n"
        "> and?\n"
        "no\n"
        "(10.0 tokens/s · 256 of 384 cells used (budget 256) · 48 of 304 tokens evicted)\n",
        0,
    )
    assert talk.said[0] == "long.txt:\n\n" + ("word " * 299).strip() + "\n\n"
    assert "evicted is gone" in FORGETS


def test_clear_forgets_and_warns_anew(tmp_path):
    (tmp_path / "long.txt").write_text("word " * 299)
    shown, _ = transcript(FakeTalk(), "/read long.txt", "/clear", "/stats", "/read long.txt")
    assert shown.count("evicted is gone") == 2
    assert "> /clear\n(cleared)\n> /stats\n(positions   0 of 1,000 used)\n" in shown


def test_commands_that_fail_say_why_and_count(tmp_path):
    (tmp_path / "binary").write_bytes(b"\0\1")
    (tmp_path / "huge.txt").write_text("word " * 2000)
    shown, n_failed = transcript(FakeTalk(), "/read", "/read none.txt", "/read .", "/read binary", "/read huge.txt", "/nope 1")
    assert shown == (
        "> /read\n(/read needs a file: /read FILE)!\n"
        "> /read none.txt\n(none.txt: No such file or directory)!\n"
        "> /read .\n(.: Is a directory)!\n"
        "> /read binary\n(binary: this is not a text file)!\n"
        "> /read huge.txt\n(huge.txt: this takes 2001 tokens, and 1000 of 1000 positions are left. Nothing was read. "
        "/clear begins anew, a larger --ctx makes room for more; with a budget and without --ctx there is no end.)!\n"
        "> /nope 1\n(no such command: /nope; /help lists them)!\n"
    )
    assert n_failed == 6


def test_a_full_context_is_told_and_the_chat_goes_on():
    talk = FakeTalk([["a"] * 5], n_ctx=10)
    shown, n_failed = transcript(talk, "one two three four five", "more", "/stats")
    assert "aaaaa\n" in shown and "the context is full" in shown
    assert "(the reply stops here: all 10 positions are used. /clear begins anew" in shown
    assert "(this takes 1 tokens, and 0 of 10 positions are left. /clear begins anew" in shown
    assert "> /stats\n(positions   10 of 10 used)\n" in shown
    assert n_failed == 2


def test_a_talk_without_an_end_says_so_and_no_length():
    talk = FakeTalk([["ok"]], n_ctx=None)
    assert cost_lines(talk)[1] == (
        "cache: 384 cells in q8_0, 1.0 MiB on CPU; a full cache for 3,072 tokens would take 8.0 MiB; the conversation has no end"
    )
    shown, n_failed = transcript(talk, "word " * 5000, "/stats")
    assert n_failed == 0 and "ok\n" in shown
    assert "(positions   5,001 used, no end)\n" in shown
    assert toolbar(talk).endswith(" · 5,001 tokens so far")
    assert toolbar(FakeTalk()).endswith(" · 1,000 of 1,000 positions left")


def test_ctrl_c_stops_a_reply_and_leaves_at_the_prompt():
    talk = FakeTalk([["half", " a", KeyboardInterrupt()], ["again"]])
    assert transcript(talk, "go", "on", KeyboardInterrupt(), "never said") == (
        "> go\n"
        "half a\n"
        "(20.0 tokens/s · 3 of 384 cells used (budget 256) · 0 of 3 tokens evicted · stopped)\n"
        "> on\n"
        "again\n"
        "(10.0 tokens/s · 5 of 384 cells used (budget 256) · 0 of 5 tokens evicted)\n"
        "> \n",
        0,
    )


def test_a_script_ends_at_ctrl_c(tmp_path):
    for replies, inputs in [([["half", KeyboardInterrupt()]], ["go", "on"]), ([], [KeyboardInterrupt(), "on"])]:
        ui, talk = Transcript(*inputs), FakeTalk(replies)
        with pytest.raises(KeyboardInterrupt):
            run_chat(talk, ui, Chat(talk, ui, is_script=True))
        assert "on" not in ui.shown.split() and ui.inputs == ["on"]

    def stop(*_):
        raise KeyboardInterrupt

    talk.read = talk.ask = stop
    (tmp_path / "a.txt").write_text("a")
    for act in (lambda chat: chat.read("a.txt"), lambda chat: chat.say("a")):
        with pytest.raises(KeyboardInterrupt):
            act(Chat(talk, ui, is_script=True))


def test_a_slow_reply_shows_its_cause():
    talk = FakeTalk([["a"]])
    for waited, n_threads, shown in [
        (0.05, 2, " evicted"),
        (0.4, 2, " · slow: for 40% of the time other programs had the CPU; --threads 1 may be faster"),
        (0.4, 1, " · slow: for 40% of the time other programs had the CPU"),
    ]:
        talk.turn, talk.n_threads = Turn(n_reply=1, t_reply=1.0, waited=waited), n_threads
        assert turn_line(talk).endswith(shown)


def test_a_file_that_is_not_utf8_is_read_with_a_note(tmp_path):
    (tmp_path / "latin.txt").write_bytes("dé jà vu".encode("latin-1"))
    (tmp_path / "utf8.txt").write_text("dé jà vu \ufffd")
    talk = FakeTalk()
    shown, n_failed = transcript(talk, "/read latin.txt", "/read utf8.txt")
    assert shown.count("(note: ") == 1 and n_failed == 0
    assert "(note: latin.txt is not all UTF-8: 2 bytes were replaced)\n" in shown
    assert talk.said[0] == "latin.txt:\n\nd\ufffd j\ufffd vu\n\n"


def test_help_lists_every_command():
    shown, _ = transcript(FakeTalk(), "/help")
    for word in ("/help", "/read FILE", "/stats", "/clear", "/exit", "Alt+Enter", '"""', "Ctrl-C"):
        assert word in shown


def test_a_double_slash_sends_one():
    talk = FakeTalk([["ok"]])
    transcript(talk, "//etc is what?")
    assert talk.said == ["/etc is what?"]


def test_without_a_budget_nothing_is_said_of_eviction():
    shown, _ = transcript(FakeTalk([["ok"]], budget=None), "hi", "/stats")
    assert "(10.0 tokens/s · 2 of 1,000 tokens)" in shown and "(budget      none: nothing is evicted)" in shown


@pytest.mark.parametrize(
    "text, complete, cleaned",
    [
        ("one", True, "one"),
        ("one\\", False, "one"),
        ("one\\\ntwo", True, "one\ntwo"),
        ('"""', False, ""),
        ('"""one\ntwo', False, "one\ntwo"),
        ('"""\none\\\n\n  two\n"""', True, "one\\\n\n  two"),
        ('"""one"""', True, "one"),
    ],
)
def test_inputs_of_several_lines(text, complete, cleaned):
    assert (is_complete(text), clean(text)) == (complete, cleaned)


# --- a real model ---


class Witness:
    """Stands in for a Llama's eval: looks at the cache after every batch and token, and at every head after each eviction."""

    def __init__(self, llm, held):
        self.llm, self.held, self.read = llm, held, llm.eval
        self.n_evictions = 0
        llm.eval = self.eval

    def eval(self, tokens):
        n_before = self.llm.n_tokens
        self.read(tokens)
        stats, config = self.llm.kv_stats(), self.llm.kv_config
        assert stats.n_tokens == self.llm.n_tokens == n_before + len(tokens)
        assert stats.n_used == stats.n_tokens - stats.n_evicted <= stats.n_cells
        if stats.n_evictions == self.n_evictions:
            return
        self.n_evictions += 1
        assert stats.n_evictions == self.n_evictions
        assert stats.pos_tail == n_before - config.recent
        for positions in self.held(self.llm):
            positions = positions.tolist()
            assert len(positions) == stats.n_used and positions == sorted(set(positions))
            assert positions[: config.sink] == list(range(config.sink))
            assert positions[-(stats.n_tokens - stats.pos_tail) :] == list(range(stats.pos_tail, stats.n_tokens))


def test_sixty_turns_through_a_small_budget(make_llama, demo_model, held, tmp_path):
    import pydoc_data.topics

    (tmp_path / "topic.txt").write_text(pydoc_data.topics.topics["class"][:4000])
    llm = make_llama(demo_model, kv_budget=256, n_batch=128)
    talk = Conversation(llm, temp=0, max_tokens=8)
    witness = Witness(llm, held)
    replies = []

    class UI(Transcript):
        def write(self, text):
            replies[-1] += text

    ui = UI()
    chat = Chat(talk, ui)
    for i in range(60):
        if i == 30:
            n = talk.n_tokens
            chat.read("topic.txt")
            assert talk.n_tokens - n > 600
        replies.append("")
        n = talk.n_tokens
        chat.say(f"Question {i}: what comes after {i}?")
        assert talk.n_tokens > n
    assert chat.n_failed == 0
    assert all(reply.strip() for reply in replies) and len(replies) == 60
    assert witness.n_evictions > 3
    stats = llm.kv_stats()
    assert stats.n_tokens == llm.n_tokens == len(llm.input_ids[: llm.n_tokens]) > 2000
    assert stats.n_evictions == witness.n_evictions and stats.n_evicted > 1000
    assert ui.shown.count("evicted is gone") == 1
