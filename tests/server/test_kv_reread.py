"""kv.reread: a history that comes again is reused, and what had to be read again is said."""

import pytest
from driving import text

BUDGET = ("--kv-budget", 128)


def test_histories_that_come_again_are_reused_after_evictions_too(serve):
    server = serve(*BUDGET)
    history = []
    for turn in range(6):
        history += text(150, seed=turn)
        answer = server.complete(history, n=40)
        assert answer["kv"]["reread"] == 0
        history += answer["tokens"]
    assert answer["kv"]["evicted"] > 700 and server.metrics()["kv_reread_tokens_total"] == 0


def test_a_changed_beginning_is_read_anew_and_said(serve):
    server = serve(*BUDGET)
    answer = server.complete(text(30, seed=1) + text(700), n=20)
    changed = server.complete(text(30, seed=2) + text(700) + answer["tokens"] + text(40, seed=3), n=4)
    assert changed["timings"]["cache_n"] == 0
    assert changed["kv"]["reread"] == 700 + 19  # the last token of the reply was sampled, not read
    assert server.metrics()["kv_reread_tokens_total"] == 719


@pytest.mark.parametrize("keep", [1, 300, 690])
def test_an_edited_turn_counts_what_stands_before_and_after_it(serve, keep):
    server = serve(*BUDGET)
    server.complete(text(700), n=1)
    edited = server.complete(text(700)[:keep] + text(50, seed=1) + text(700)[keep:], n=1)
    n_after = 700 - keep if 700 - keep >= 16 else 0  # a shorter run could be there by chance
    n_cached = edited["timings"]["cache_n"]
    assert edited["kv"]["reread"] == keep - n_cached + n_after
    assert n_cached == (keep if keep == 690 else 0)  # within the exact tail


def test_another_text_is_not_one_that_was_read_before(serve):
    server = serve(*BUDGET)
    server.complete(text(700), n=20)
    assert server.complete(text(700, seed=1), n=4)["kv"]["reread"] == 0


def test_a_chat_whose_system_prompt_changes_says_so(serve):
    server = serve(*BUDGET)

    def ask(system, *turns):
        messages = [{"role": "system", "content": system}]
        for i, content in enumerate(turns):
            messages.append({"role": ("user", "assistant")[i % 2], "content": content})
        return server.post("/v1/chat/completions", messages=messages, max_tokens=4, temperature=0)["kv"]["reread"]

    first = "so much to say. " * 30
    assert ask("Be brief.", first) == 0
    assert ask("Be brief.", first, "Yes.", "And then?") <= 20  # the model's own reply is not "Yes."
    assert ask("Be long.", first, "Yes.", "And then?") > 400
