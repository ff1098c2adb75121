"""/budget evicts at once, /policy says what another policy would mean, /set changes what is sampled and how long it may be."""

import pytest
from fake_talk import Transcript, run
from scripted import script

from capkv_edge.chat.conversation import Conversation
from capkv_edge.chat.loop import Chat
from capkv_edge.chat.settings import SETTINGS, choices


@pytest.fixture
def make_chat(make_llama, tiny_llama):
    def make(*replies, **options):
        llm = make_llama(tiny_llama, kv_budget=256, kv_recent=16, n_batch=64, **options)
        talk, ui = Conversation(llm, system="", recall=64), Transcript()
        script(llm, *replies)
        return Chat(talk, ui)

    return make


def test_a_smaller_budget_evicts_at_once_and_once(make_chat, held):
    chat = make_chat("fine")
    run(chat, "x" * 150)
    n, cells = chat.talk.n_tokens, chat.talk.stats().n_cells
    assert run(chat, "/budget") == f"> /budget\n(budget 256: each KV head holds {n} of {n} tokens)\n"
    assert run(chat, "/budget 100") == (
        f"> /budget 100\n(each KV head has dropped {n - 100} tokens and holds 100 now; "
        f"later evictions happen when all {cells} cells are used, down to 256)\n"
    )
    assert {len(one) for one in held(chat.talk.llm)} == {100}
    assert "(nothing to evict: each KV head holds 100 tokens)" in run(chat, "/budget 200")
    assert "(/budget x = x: allowed is" not in run(chat, "/budget 1,00")
    for wrong in ("x", "0", "-5", "9999999999"):
        assert f"(/budget = {wrong}: allowed is a whole number, 1 to 2147483647)!" in run(chat, f"/budget {wrong}")
    assert "!" in run(chat, "/budget 3") and {len(one) for one in held(chat.talk.llm)} == {100}


def test_another_policy_is_explained_with_the_line_to_type(make_chat):
    chat = make_chat("fine")
    run(chat, "hello")
    assert "(policy capkv: keeps leverage under" in run(chat, "/policy")
    shown = run(chat, "/policy snapkv")
    assert f"({chat.talk.n_tokens} tokens)" in shown and f"capkv-chat {chat.talk.llm.model_path} --policy snapkv -c" in shown
    assert "(capkv is the policy of this conversation: it keeps" in run(chat, "/policy capkv")
    assert "(/policy best: allowed is capkv, " in run(chat, "/policy best")


def test_settings_change_what_the_next_reply_is_sampled_with(make_chat):
    chat = make_chat("one", "two")
    shown = run(chat, "/set temp 0.3", "/set top-k=5", "/set top_p 0.5", "/set max-tokens 2", "hi")
    assert "(temp is 0.3 now)" in shown and "(top-k is 5 now)" in shown and "\non\n" in shown and "cut at --max-tokens" in shown
    used = chat.talk.llm.options
    assert (used["temp"], used["top_k"], used["top_p"], used["min_p"], used["repeat_penalty"]) == (0.3, 5, 0.5, 0.05, 1.0)
    run(chat, "/set seed 9", "/set recall 0")
    assert chat.talk.llm._sampling_seed == 9 and not chat.talk.recall.is_on
    assert "(recall is off: it needs a budget and --recall above 0)!" in run(chat, "/recall x")
    run(chat, "/set recall 32")
    assert chat.talk.recall.is_on and chat.talk.recall.quota == 32


def test_settings_are_listed_and_what_is_wrong_is_named(make_chat):
    chat = make_chat()
    shown = run(chat, "/set")
    assert all(f"({name} " in shown and setting.help in shown for name, setting in zip(choices(), SETTINGS.values()))
    assert "(temp is 0.8: temperature" in run(chat, "/set temp")
    for wrong, said in [
        ("temp x", "temp = x: allowed is a number, 0 to 100"),
        ("temp nan", "temp = nan: allowed is a number"),
        ("top-k 1.5", "top-k = 1.5: allowed is a whole number"),
        ("seed -1", "seed = -1: allowed is a whole number, 0 to 4294967295"),
        ("heat 1", "/set heat: allowed is temp, top-k, "),
    ]:
        assert f"({said}" in run(chat, f"/set {wrong}")
    with pytest.raises(TypeError, match="no such setting: heat"):
        Conversation(chat.talk.llm, heat=1)
