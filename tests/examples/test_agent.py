"""The agent that never runs out of context."""

from examples_under_test import load_example

agent = load_example("agent")


def test_it_goes_on_in_a_cache_that_keeps_its_size(make_llama, demo_model):
    llm = make_llama(demo_model, kv_budget=224, n_batch=32, kv_headroom=32)
    house, n_cells = agent.Greenhouse(), llm.kv_stats().n_cells
    steps = list(agent.run(llm, house, 8))
    now = llm.kv_stats()
    assert len(steps) == 8 and all(call["tool"] in ("heat", "wait", "cool") and call["minutes"] in (1, 5, 10) for _, call in steps)
    assert now.n_evicted > 0 and now.n_tokens > now.n_cells == n_cells
    assert llm.n_rereads == 0
    (start, stop), *_ = llm.pins
    template = agent.ChatTemplate(llm.metadata, agent.Vocab(llm.model))
    begin = agent.Turns(template, agent.RULES).first[0]
    assert start == 0 and stop == len(llm.tokenize(begin.encode(), add_bos=False, special=True))
    assert (llm.kv_kept()[start:stop] == 1).all(), "the rules are in every head"


def test_what_the_tools_do():
    house = agent.Greenhouse()
    house.heat(5)
    assert house.temperature == 16
    house.cool(10)
    assert house.temperature == 12
    house.wait(1)
    assert house.temperature != 12
