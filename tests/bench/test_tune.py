"""capkv-bench tune: the smallest cache under a limit, chosen on some documents and confirmed on others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge.bench.measure import tune
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup
from capkv_edge.bench.tasks import corpora


def tuned(monkeypatch, loss, max_kl=0.05, held_out=0.0, names=("capkv",)):
    """A plan over six documents, and what is found where a function of the cells gives the loss; held_out: more on those documents."""
    plan = tune.Plan(list(range(6)), list(names), 4096, max_kl)

    def fake(engine, plan, documents, setup, store, bases, say):
        more = held_out if documents == plan.held_out else 0
        return tune.intervals(np.full((3, 1), loss(setup.n_cells) + more))[0], setup.n_cells / 4096

    monkeypatch.setattr(tune, "_loss", fake)
    return plan, list(tune.run(None, plan, Store()))


@given(limit=st.integers(0, 4096))
def test_bisection_finds_the_fewest_cells_that_keep_the_limit(limit):
    with pytest.MonkeyPatch.context() as monkeypatch:
        plan, (found,) = tuned(monkeypatch, lambda n_cells: 0.04 if n_cells >= limit else 0.06)
    good = [n_cells for n_cells in plan.cells if n_cells >= limit]
    assert found.fits == bool(good) and found.setup.n_cells == (good or plan.cells)[0 if good else -1]
    assert len(found.tried) <= len(plan.cells).bit_length() + 1


def test_candidates_are_the_caches_that_llama_cpp_and_the_chat_can_have():
    for n_cells in tune.Plan([1, 2], ["capkv"], 16384, 0.1).cells:
        setup = tune.setup_of("capkv", n_cells, "f16")
        assert n_cells % 256 == 0 and setup.n_cells == n_cells and setup.n_batch == 512
        assert Setup.parse(setup.name) == setup


def test_no_document_has_a_part_in_both_choice_and_confirmation():
    plan = tune.Plan([0, 1, 2, 3, 4], ["capkv"], 4096, 0.1)
    assert sorted(plan.chosen_by + plan.held_out) == plan.documents and len(plan.held_out) == 2


def test_it_says_what_to_type(monkeypatch):
    plan, found = tuned(monkeypatch, lambda n_cells: 50 / n_cells)
    lines = tune.report(found, plan, "my model.gguf")
    assert lines[1].split() == ["capkv", "512", "1024", "25%", "0.0488", "0.0488"]
    assert lines[-1] == "capkv-chat 'my model.gguf' --budget 512 --cache-type-k f16 --cache-type-v f16"
    plan, found = tuned(monkeypatch, lambda n_cells: 1)
    assert tune.report(found, plan, "m.gguf")[-1] == "No cache of up to 3072 cells keeps that limit with these policies."


def test_the_headroom_is_typed_where_the_chat_would_take_a_larger_one(monkeypatch):
    plan, found = tuned(monkeypatch, lambda n_cells: 150 / n_cells)
    assert tune.report(found, plan, "m.gguf")[-1].startswith("capkv-chat m.gguf --budget 2560 --headroom 512 --cache")


def test_what_other_documents_do_not_confirm_is_not_recommended(monkeypatch):
    plan, found = tuned(monkeypatch, lambda n_cells: 50 / n_cells, held_out=0.02)
    lines = tune.report(found, plan, "m.gguf")
    assert lines[1].split()[-2:] == ["0.0488", "0.0688"] and "on the documents held out" in lines[-1]
    assert not any("capkv-chat" in line for line in lines)


def test_a_context_shift_is_compared_and_never_recommended(monkeypatch):
    plan, found = tuned(monkeypatch, lambda n_cells: 50 / n_cells, names=("shift", "streaming"))
    assert [one.setup.policy for one in found] == ["shift", "streaming"]
    assert "--policy streaming" in tune.report(found, plan, "m.gguf")[-1]


def test_all_candidates_are_scored_on_the_same_tokens_and_rows_are_kept(engine):
    plan = tune.Plan(corpora.documents(engine, "python-docs", 2, 2048), ["capkv", "streaming"], 2048, 1e9, seed=3, stride=8)
    store = Store()
    found = list(tune.run(engine, plan, store))
    assert [one.setup.n_cells for one in found] == [tune.LEAST, tune.LEAST] and all(one.chosen.n == one.held_out.n == 1 for one in found)
    rows = store.rows()
    assert len({row["setup"] for row in rows}) > 2 and {row["score_from"] for row in rows} == {1536}
    assert len({row["n_scored"] for row in rows}) == 1
    assert {(row["policy"], row["kv_seed"]) for row in rows} == {("capkv", 3), ("streaming", None)}
    assert len(rows) == sum(len(one.tried) + 1 for one in found)
    again = list(tune.run(engine, plan, store))
    assert len(store.rows()) == len(rows) and again == found


def test_limits_contexts_and_documents_out_of_range_are_refused():
    with pytest.raises(ValueError, match="max-kl = 0"):
        tune.Plan([1, 2], ["capkv"], 1024, 0)
    with pytest.raises(ValueError, match="ctx = 1023: .* 1024 or more"):
        tune.Plan([1, 2], ["capkv"], 1023, 0.1)
    with pytest.raises(ValueError, match="docs = 1: allowed is 2 or more"):
        tune.Plan([1], ["capkv"], 1024, 0.1)
