"""Recall on a Llama: what its cache has evicted comes back, once, and what came back is no part of the conversation."""

import pytest

from capkv_edge.recall import Recall

BUDGET = dict(kv_budget=64, n_batch=32, n_ctx=4096)
FACT = "My dentist is called Marlow and lives in Lisbon."
QUESTION = "dentist Marlow Lisbon?"


def plain(text):
    return text.replace("▁", " ")  # the tiny model's vocabulary of bytes has this mark in the place of a space


def read(llm, text):
    llm.eval(llm.tokenize(text.encode(), add_bos=False))


def talk_of(n=20):
    return " ".join(f"Sentence {i} is about thing {i * i} and place {i + 700}." for i in range(n))


@pytest.fixture
def llm(make_llama, tiny_llama):
    made = make_llama(tiny_llama, **BUDGET)
    read(made, f"{FACT} {talk_of()}")
    return made


def test_what_was_evicted_comes_back_with_its_positions(llm):
    found = Recall(llm).find(QUESTION)
    assert len(found.passages) == 1 and FACT in plain(found.passages[0].text) and FACT in plain(found.text)
    passage = found.passages[0]
    assert llm.detokenize(llm.input_ids[passage.begin : passage.end].tolist()).decode() == passage.text
    assert len(llm.tokenize(found.text.encode(), add_bos=False)) <= 256


def test_what_is_still_held_does_not_come_back(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **{**BUDGET, "kv_budget": 2048})
    read(llm, f"{FACT} {talk_of()}")
    assert Recall(llm).find(QUESTION) is None and Recall(llm).search(QUESTION) == []
    llm.compress(llm.n_tokens - 20)
    assert Recall(llm).find(QUESTION) is None
    (hit, is_gone), *_ = Recall(llm).search(QUESTION)
    assert FACT in plain(hit.passage.text) and not is_gone


def test_a_pinned_system_prompt_does_not_come_back(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **{**BUDGET, "kv_budget": 256})
    n = len(llm.tokenize(FACT.encode(), add_bos=False))
    llm.pin(0, n)
    read(llm, f"{FACT} {talk_of()}")
    assert Recall(llm).find(QUESTION) is None
    (hit, _), *_ = Recall(llm).search("thing 1 and place 701")
    assert hit.passage.begin >= n


@pytest.mark.parametrize("question", ["Go on.", "", "Please tell me a story"])
def test_nothing_comes_back_for_what_needs_nothing(llm, question):
    assert Recall(llm).find(question) is None


def test_without_a_budget_or_a_quota_nothing_comes_back(llm, make_llama, tiny_llama):
    assert Recall(llm, quota=0).find(QUESTION) is None and Recall(llm, quota=20).find(QUESTION) is None
    full = make_llama(tiny_llama, n_ctx=4096)
    read(full, f"{FACT} {talk_of()}")
    assert Recall(full).find(QUESTION) is None
    with pytest.raises(ValueError, match="quota = -1: allowed is 0 or more"):
        Recall(llm, quota=-1)


def put(recall, found):
    begin = recall.llm.n_tokens
    read(recall.llm, found.text)
    recall.put(found, begin, recall.llm.n_tokens)


def test_what_came_back_is_new_again_once_its_copy_is_evicted(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **{**BUDGET, "kv_budget": 512, "kv_recent": 256})
    read(llm, f"{FACT} {talk_of()}")
    recall = Recall(llm)
    found = recall.find(QUESTION)
    put(recall, found)
    assert recall.find(QUESTION) is None
    read(llm, talk_of(20))
    assert recall.find(QUESTION) == found


def test_what_came_back_is_not_found_as_conversation(llm):
    recall = Recall(llm)
    n = llm.n_tokens
    for _ in range(3):
        put(recall, recall.find(QUESTION))
        read(llm, talk_of(9))
    assert len(recall.left_out) == 3 and recall.left_out[0][0] == n
    hits = [hit.passage for hit, _ in recall.search("dentist Marlow")]
    assert [FACT in plain(passage.text) for passage in hits] == [True] and hits[0].begin == 0
    again = Recall(llm, left_out=recall.left_out)
    assert again.search("dentist Marlow") == recall.search("dentist Marlow") and again.left_out == recall.left_out
    assert len(Recall(llm).search("dentist Marlow")) > 1  # without it the copies are found too


def test_after_a_rollback_what_was_taken_back_is_not_found(llm):
    recall = Recall(llm)
    n = llm.n_tokens
    assert n - 20 > llm.kv_stats().pos_tail
    llm.n_tokens = n - 20
    read(llm, "Otter is the boat. " + talk_of())
    assert [n - 20 >= hit.passage.begin for hit, _ in recall.search("Otter boat")][:1] == [True]
    llm.reset()
    read(llm, talk_of())
    assert recall.search("Otter boat") == [] == recall.search("dentist Marlow")
    assert recall.archive.n_tokens == llm.n_tokens


def test_a_rollback_to_where_a_passage_was_put_forgets_that_it_was(llm):
    recall = Recall(llm)
    found = recall.find(QUESTION)
    n = llm.n_tokens
    read(llm, found.text[:30])
    recall.put(found, n, n + 30)
    llm.n_tokens = n
    recall.rewind(n)
    assert recall.left_out == [] and recall.find(QUESTION) == found


def test_a_session_is_found_again(llm, make_llama, tiny_llama, tmp_path):
    llm.save_session(tmp_path / "talk")
    other = make_llama(tiny_llama, **BUDGET)
    read(other, "Something else. " * 20)
    recall = Recall(other)
    assert recall.find(QUESTION) is None
    other.load_session(tmp_path / "talk")
    assert recall.find(QUESTION) == Recall(llm).find(QUESTION) is not None


def test_the_marks_of_a_template_are_no_text(llm):
    llm.reset()
    llm.eval(llm.tokenize(f"</s>{FACT}</s>{talk_of()}".encode(), add_bos=False, special=True))
    assert plain(Recall(llm).find(QUESTION).passages[0].text) == FACT


def test_what_came_back_stays_while_a_long_reply_is_made(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, **{**BUDGET, "kv_budget": 512})
    read(llm, f"{FACT} {talk_of()}")
    other = llm.n_tokens - 10, llm.n_tokens - 5
    llm.pin(*other)
    recall = Recall(llm)
    found, begin = recall.find(QUESTION), llm.n_tokens
    end = begin + len(llm.tokenize(found.text.encode(), add_bos=False))
    with recall.pinned(begin, end):
        put(recall, found)
        read(llm, talk_of(20))
        assert llm.kv_kept()[begin:end].min() == 1
    assert llm.pins == [other]
    read(llm, talk_of(20))
    assert llm.kv_kept()[begin:end].mean() < 0.9


def test_pins_in_what_came_back_stay_pinned(llm):
    begin = llm.n_tokens
    llm.pin(begin + 2, begin + 5)
    with Recall(llm).pinned(begin, begin + 4):
        assert llm.pins == [(begin, begin + 5)]
    assert llm.pins == [(begin + 2, begin + 5)]


@pytest.mark.parametrize("budget", [64, 0])
def test_without_room_or_a_budget_what_came_back_is_not_pinned(make_llama, tiny_llama, budget):
    llm = make_llama(tiny_llama, **{**BUDGET, "kv_budget": budget})
    read(llm, FACT)
    with Recall(llm).pinned(10, 200):
        assert not budget or llm.pins == []
