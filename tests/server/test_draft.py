"""A draft model next to a budget: its cache is as large as without one, and answers are those of the main model alone."""

import pytest
from driving import text

BUDGET = ("--kv-budget", 128)
N_SLOTS = 4


@pytest.fixture
def draft(tiny_llama):
    """Options for a draft model: the main model itself, so that its drafts are right."""
    return ("-md", tiny_llama, "--spec-type", "draft-simple", "--spec-draft-n-max", 4)


@pytest.mark.parametrize("slots", [("-np", -1), ("-np", N_SLOTS, "--no-kv-unified"), ("-np", 1)], ids=str)
def test_a_budget_leaves_the_cache_of_the_draft_as_it_is(serve, draft, slots):
    without = serve(*slots, *draft).caches()[-1]
    server = serve(*BUDGET, *slots, *draft)
    assert server.caches()[-1] == without
    assert server.caches()[-2][0] < without[0]  # the main model's, per stream
    answer = server.complete(text(300), n=60)
    assert answer["timings"]["draft_n"] > 0 and len(answer["tokens"]) == 60


def test_slots_that_are_too_long_together_for_the_draft_are_answered(serve, draft):
    """The budget is more than any slot's text: without evictions, drafts change no answer."""
    prompts = [text(1500 + 20 * slot, seed=slot) for slot in range(N_SLOTS)]
    answers = []
    for options in ((), draft):
        server = serve("--kv-budget", 1900, "-np", -1, "-c", 2048, *options)
        first = [server.complete(prompts[slot], n=20, slot=slot)["tokens"] for slot in range(N_SLOTS)]
        again = [server.complete(prompts[slot] + first[slot] + text(5), n=20, slot=slot) for slot in range(N_SLOTS)]
        assert [answer["timings"]["cache_n"] > 1400 for answer in again] == [True] * N_SLOTS
        answers.append(first + [answer["tokens"] for answer in again])
    assert server.caches()[-1] == (2048, 1)
    assert "failed to decode draft batch, ret = 1" in server.log()  # room had to be made
    assert answers[0] == answers[1]
