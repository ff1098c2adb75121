"""Long continuations: what is scored, what is written, and what a row says."""

import re

import numpy as np
import pytest

from capkv_edge.bench.cli import main
from capkv_edge.bench.measure import continuation, divergence
from capkv_edge.bench.measure.continuation import Plan, run, share_repeated
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup
from capkv_edge.bench.tasks import corpora

FULL, SMALL = Setup(), Setup.parse("capkv@100")


def plan(engine, setups=(FULL, SMALL), n_docs=1, **options):
    options = {"n_prompt": 100, "n_gen": 300, **options}
    documents = corpora.documents(engine, "python-docs", n_docs, options["n_prompt"] + options["n_gen"])
    return Plan(documents, list(setups), **options)


def test_a_piece_counts_as_repeated_where_it_was_there_before():
    assert share_repeated(list(range(100))) == 0
    assert share_repeated([1] * 11) == pytest.approx(7 / 8)
    assert share_repeated([1, 2, 3, 4, 5, 6, 7, 8] * 2) == pytest.approx(5 / 13)


@pytest.mark.parametrize("setup", [FULL, SMALL, Setup.parse("shift@100")])
def test_the_loss_is_that_of_the_tokens_after_the_beginning_one_by_one(engine, setup):
    tokens = corpora.documents(engine, "python-docs", 1, 63)[0].tokens
    with engine.open(setup, 128) as stream:
        found = continuation.nll_of(stream, tokens, 60)
    losses = []
    with engine.open(setup, 128) as stream:
        stream.read(tokens[:60])
        for token in tokens[60:]:
            losses.append(-divergence.log_softmax(stream.last()[None])[0, token])
            stream.read([token])
    assert found == pytest.approx(np.mean(losses), rel=1e-4) and np.mean(losses[1:]) != pytest.approx(found, rel=1e-3)


def test_the_model_writes_on_past_the_end_of_a_reply(engine, monkeypatch):
    with engine.open(FULL, 256) as stream:
        stream.read(engine.tokenize("some words and more " * 5))
        mark = stream.mark()
        first = continuation.write(stream, 12)
        stream.back(mark)
        stream.read(engine.tokenize("some words and more " * 5)[-1:])
    ends = set(first[:3])
    monkeypatch.setattr(engine, "is_eog", lambda token: token in ends)
    with engine.open(FULL, 256) as stream:
        stream.read(engine.tokenize("some words and more " * 5))
        second = continuation.write(stream, 12)
    assert len(first) == len(second) == 12 and not ends & set(second)


def test_a_row_says_what_was_measured_and_is_not_measured_again(engine, tmp_path):
    store, seen = Store(tmp_path / "rows.jsonl"), []
    rows = list(run(engine, plan(engine, n_docs=2), store, lambda done, total, label: seen.append((done, total))))
    assert [row["setup"] for row in rows] == ["full", "capkv@100"] * 2
    assert rows[0]["doc"] == rows[1]["doc"] != rows[2]["doc"] == rows[3]["doc"]
    assert seen == [(i, 4) for i in range(5)]
    for row in rows:
        assert row["kind"] == "continuation" and (row["corpus"], row["n_prompt"], row["n_gen"]) == ("python-docs", 100, 300)
        assert row["nll"] > 0 and 0 <= row["repeated"] < 1 and row["written"]
    full, small = rows[:2]
    assert small["n_evictions"] >= 1 > full["n_evictions"] and full["nll"] != small["nll"]
    assert list(run(engine, plan(engine, n_docs=2), Store(store.path))) == []
    assert len(list(run(engine, plan(engine, [SMALL], n_gen=200), Store(store.path)))) == 1


@pytest.mark.parametrize("name", ["n_prompt", "n_gen"])
def test_too_few_tokens_are_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"{name} = 3: allowed is 16 or more")):
        Plan([], [], **{name: 3})


def test_the_command_shows_both_figures(tiny_llama, tmp_path, capsys):
    small = ["--prompt", "64", "--length", "128", "--docs", "1", "--policy", "capkv", "--budget", "100", "--setup", "q8_0", "-t", "1"]
    assert main(["continuation", str(tiny_llama), *small, "--plot", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| NLL" in out and "| repeated, %" in out and "| q8_0 " in out and "| capkv@100 " in out
    assert "Long continuations" in (tmp_path / "index.html").read_text()
