"""Retrieval in mode "focus": the question takes part in the evictions, and is in the text no earlier than in mode "blind"."""

import pytest
from fake_engine import FakeEngine, FakeStream, solve

from capkv_edge.bench.measure import retrieval
from capkv_edge.bench.measure.retrieval import Plan, Reader
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup


def plan(setup, *modes):
    return Plan(["niah_single_1"], [setup], lengths=[800], n_texts=1, modes=list(modes))


@pytest.mark.parametrize("can_focus", [True, False])
def test_a_question_in_focus_is_read_alone_before_the_text_where_the_policy_has_a_sample(monkeypatch, can_focus):
    monkeypatch.setattr(FakeStream, "can_focus", can_focus)
    engine = FakeEngine(solve)
    focus, blind = retrieval.run(engine, plan(Setup.parse("streaming@128"), "focus", "blind"), Store())
    question = focus["items"][0]["question"].strip()
    first = [f"(<|start|>user\n{question}<|end|>\n<|start|>assistant\n)"] * can_focus
    assert engine.streams[0].log == first + engine.streams[1].log
    assert (focus["mode"], focus["share"], focus["score"]) == ("focus", 1, 1)
    assert {**focus, "mode": "blind"} == blind


def test_a_question_in_focus_takes_part_in_the_evictions(engine):
    """The text is longer than the cells: it is evicted while it is read."""
    small, reader, held, n_focus = Setup.parse("capkv@128"), Reader(engine), [], []
    one = plan(small, "blind")
    text = retrieval.make_text(reader, one, one.conditions[0], 0)
    for mode in ("blind", "focus"):
        with retrieval.reading_of(engine.open(small, 800), reader, text, mode) as reading:
            held.append([reading.stream._kv.positions(*head) for head in reading.stream._kv.heads])
            reading.ask()
            n_focus.append(reading.stream._kv.n_focus())
    assert n_focus == [0, 30] and any((a != b).any() for a, b in zip(*held, strict=True))
    with engine.open(Setup(), 800) as full, engine.open(Setup.parse("snapkv@128"), 800) as last:
        assert not full.can_focus and not last.can_focus
