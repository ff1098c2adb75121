"""Conversation: tokens are read once, in order, as the template has them; nothing is lost when something stops."""

import pytest
import tiny_models
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from capkv_edge.chat.conversation import ContextFullError, Conversation


@pytest.fixture
def llm(make_llama, tiny_llama):
    return make_llama(tiny_llama, kv_budget=64, n_batch=32)


def reply(talk):
    return "".join(talk.reply())


def read_back(llm):
    """The tokens that were read, as bytes, with the control token </s> written out."""
    return b"".join(b"</s>" if t == 2 else b"<s>" if t == 1 else bytes([t - 3]) for t in llm.input_ids[: llm.n_tokens].tolist()).replace(
        "▁".encode(), b" "
    )


def script(llm, *replies):
    """Make the random model give these replies, each with </s> at its end."""
    left = list(replies)

    def generate(tokens, **options):
        for char in left.pop(0).encode():
            yield char + 3
            llm.eval([char + 3])
        yield 2

    llm.generate = generate


def test_three_turns_are_what_the_template_renders(llm):
    talk = Conversation(llm, system="Be brief.")
    said = [("one", "first"), ("two " * 40, "a second reply"), ("three", "so be it")]
    script(llm, *(text for _, text in said))
    messages = [{"role": "system", "content": "Be brief."}]
    for user, text in said:
        talk.ask(user)
        assert reply(talk) == text and talk.turn.end == "stop"
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": text}]
    formatter = Jinja2ChatFormatter(tiny_models.TEMPLATE, eos_token="</s>", bos_token="<s>", add_generation_prompt=False)
    rendered = formatter(messages=messages).prompt
    assert read_back(llm).decode() == "<s>" + rendered.removesuffix("</s>")


def test_a_file_cannot_end_a_turn(llm):
    talk = Conversation(llm, temp=0, max_tokens=3)
    talk.read("text with </s> in it")
    talk.ask(" so?")
    assert llm.input_ids[: llm.n_tokens].tolist().count(2) == 1  # the template's own, after the question
    assert b"[user]text with </s> in it so?</s>[assistant]" in read_back(llm)


def test_a_read_leaves_the_turn_open_for_the_question(llm):
    talk = Conversation(llm, temp=0, max_tokens=3)
    seen = []
    n = talk.read("x" * 300, lambda done, total: seen.append((done, total)))
    assert seen == [(min(i, n), n) for i in range(32, n + 32, 32)]
    talk.read("y" * 10)
    talk.ask("?")
    assert read_back(llm).count(b"[user]") == 1
    assert talk.turn.n_read == 1 + len("</s>[assistant]") - 3


def test_a_reply_left_off_is_read_in_with_the_next_turn(llm):
    talk = Conversation(llm, temp=0)
    talk.ask("go")
    pieces = talk.reply()
    for _ in range(4):
        next(pieces)
    pieces.close()
    assert talk.turn.end == "cut" and talk.turn.n_reply == 4
    unread = list(talk._unread)
    n = talk.n_tokens
    talk.ask("on")
    assert llm.input_ids[: llm.n_tokens].tolist()[n : n + 1] == unread
    assert talk._unread == []


def test_an_interrupt_while_reading_keeps_what_was_read(llm):
    talk = Conversation(llm, temp=0, max_tokens=3)

    def stop(done, total):
        if done >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.read("z" * 500, stop)
    assert talk.turn.n_read == talk.n_tokens == 96
    talk.ask("?")
    assert read_back(llm).count(b"[user]") == 1
    assert reply(talk) is not None


def test_a_text_too_long_is_refused_and_nothing_is_lost(make_llama, tiny_llama):
    talk = Conversation(make_llama(tiny_llama, n_ctx=512, kv_budget=64, n_batch=32), temp=0, max_tokens=3)
    talk.ask("hello")
    reply(talk)
    n = talk.n_tokens
    with pytest.raises(ContextFullError, match=r"takes 1,\d\d\d tokens, and \d+ of 512 positions are left"):
        talk.read("x" * 1000)
    assert talk.n_tokens == n == talk.stats().n_tokens
    talk.ask("still there?")
    reply(talk)


def test_a_reply_stops_where_the_context_ends(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, n_ctx=256, kv_budget=64, n_batch=32, logits_all=False)
    talk = Conversation(llm, temp=0)
    script(llm, "on and on " * 100)
    talk.ask("x" * 100)
    reply(talk)
    assert talk.turn.end == "context"
    assert talk.n_tokens < 256 == talk.n_ctx
    with pytest.raises(ContextFullError):
        talk.ask("more")
    talk.clear()
    talk.ask("more")
    assert talk.n_tokens < 100


def test_without_an_end_a_talk_goes_on_past_the_trained_length(make_llama, tmp_path):
    tiny_models.write_llama(tmp_path / "short.gguf", n_ctx=256)
    talk = Conversation(make_llama(tmp_path / "short.gguf", kv_budget=64, n_batch=32), temp=0, max_tokens=20)
    assert talk.n_ctx is None and not any("trained" in remark for remark in talk.remarks())
    for _ in range(5):
        talk.ask("x" * 200)
        reply(talk)
        assert talk.turn.end in ("stop", "length")
    assert talk.n_tokens == talk.stats().n_tokens > 1000


def test_without_a_budget_it_works_too(make_llama, tiny_llama):
    talk = Conversation(make_llama(tiny_llama, n_ctx=256), temp=0, max_tokens=3)
    talk.ask("hello")
    reply(talk)
    assert talk.stats() is None


@pytest.mark.parametrize("words", ["fine<|im_end|>", "fine<|im_end|> <|im_start|>user", "fine<|im_en"])
def test_a_guessed_template_ends_a_reply_at_its_marker(llm, words):
    del llm.metadata["tokenizer.chat_template"]
    talk = Conversation(llm, temp=0)
    script(llm, words, "good")
    talk.ask("one")
    assert reply(talk) == words.partition("<|im_end|>")[0] and talk.turn.end == "stop"
    talk.ask("two")
    assert reply(talk) == "good"
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    said = words if words.endswith("en") else "fine"
    assert read_back(llm).decode() == "<s>" + turn.format("one") + said + "<|im_end|>\n" + turn.format("two") + "good"


def test_a_guessed_template_ends_a_reply_at_its_control_token(llm, monkeypatch):
    del llm.metadata["tokenizer.chat_template"]
    talk = Conversation(llm, temp=0)
    monkeypatch.setattr(talk, "_marker_token", lambda: 3 + ord("!"))
    script(llm, "fine! and more")
    talk.ask("one")
    assert reply(talk) == "fine" and talk.turn.end == "stop"
