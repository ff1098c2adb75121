"""Chat templates, and their text cut so that turns can be appended, for the forms that templates have."""

import pytest
import tiny_models
from llama_cpp.llama_chat_format import LLAMA3_INSTRUCT_CHAT_TEMPLATE, Jinja2ChatFormatter

from capkv_edge.template import ChatTemplate, Turns, around_last, fold_system, message

SYSTEM_IN_LAST_USER = (  # as Mistral's
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[-1].content }}>"


class FakeVocab:
    bos, eos = 1, 2

    def text(self, token):
        return {1: "<s>", 2: "</s>"}[token]


def template(text, system=None):
    return Turns(ChatTemplate({"tokenizer.chat_template": text} if text else {}, FakeVocab()), system)


@pytest.mark.parametrize("text", [tiny_models.TEMPLATE, LLAMA3_INSTRUCT_CHAT_TEMPLATE])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_parts_put_together_are_the_whole_rendering(text, system):
    parts = template(text, system)
    said = [("one", "1"), ("two", "2"), ("three", None)]
    appended, messages = "", [{"role": "system", "content": system}] if system else []
    for i, (user, reply) in enumerate(said):
        before, after = parts.later if i else parts.first
        appended += before + user + after + (reply or "")
        messages.append({"role": "user", "content": user})
        if reply:
            messages.append({"role": "assistant", "content": reply})
    assert appended == Jinja2ChatFormatter(text, eos_token="</s>", bos_token="<s>")(messages=messages).prompt


def test_no_template_is_a_guess_at_chatml():
    parts = template(None)
    assert parts.stop == "<|im_end|>" and parts.remarks == ["the model has no chat template, ChatML is a guess"]
    assert parts.first == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert parts.later == ("<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


def test_bos_comes_once_only():
    parts = template(SYSTEM_IN_LAST_USER, "Be brief.")
    assert parts.first == ("<s>[INST] Be brief.\n\n", "[/INST]")
    assert parts.later == ("</s>[INST] Be brief.\n\n", "[/INST]")


OWN_SYSTEM = (  # as Qwen's
    "{% if messages[0].role != 'system' %}<system>You are a bot.</system>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}<assistant>"
)


def test_an_empty_system_prompt_is_none():
    assert template(OWN_SYSTEM).first[0] == "<system>You are a bot.</system><user>"
    empty = template(OWN_SYSTEM, "")
    assert empty.first[0] == "<system></system><user>" and empty.later == template(OWN_SYSTEM).later
    assert empty.remarks == ["the system prompt is an empty one, in place of the template's own"]
    for text in (LLAMA3_INSTRUCT_CHAT_TEMPLATE, NO_SYSTEM, tiny_models.TEMPLATE, SYSTEM_IN_LAST_USER):
        assert template(text, "").first == template(text).first and template(text, "").remarks == []


def test_a_refused_system_prompt_and_a_broken_template_say_so():
    template(NO_SYSTEM)
    with pytest.raises(ValueError, match=r"may not take a system prompt.*no system role"):
        template(NO_SYSTEM, "Be brief.")
    with pytest.raises(ValueError, match="leaves out the user's text"):
        template("nothing")
    with pytest.raises(ValueError, match="the model's chat template failed"):
        template("{{ messages.nope.nope }}")


def test_a_refused_system_prompt_can_stand_in_front_of_the_first_text():
    messages = [message("system", "Be brief."), message("user", "one"), message("assistant", "1"), message("user", "two")]
    assert fold_system(messages) == [message("user", "Be brief.\n\none"), *messages[2:]]


def test_variables_reach_the_template_and_a_reply_is_begun_or_not():
    text = "{{ date }}{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}!{% endif %}"
    render = ChatTemplate({"tokenizer.chat_template": text}, FakeVocab()).render
    assert render([message("user", "a")], date=1) == "1<a>!" and render([message("user", "a")], False) == "<a>"
    assert around_last(render, [message("user", "a")]) == ("<a><", ">!")
