"""capkv_edge.bench.measure.longbench.run: what is read before and after an eviction, its rows, and interrupted runs that go on."""

import json

import pytest
from fake_engine import FakeEngine

from capkv_edge.bench.measure.longbench import Plan, load, run
from capkv_edge.bench.report.output import render
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup

FULL, CAPKV = Setup(), Setup.parse("capkv@64")


def engine_that_says(answer):
    return FakeEngine(lambda text: answer, chars=True, bos=None)


@pytest.fixture
def folder(tmp_path):
    item = dict(input="Q?", context="TEXT", answers=["no", "yes indeed"], length=1, all_classes=None, _id="a")
    (tmp_path / "hotpotqa.jsonl").write_text(json.dumps(item) + "\n" + json.dumps({**item, "_id": "b"}) + "\n")
    (tmp_path / "triviaqa.jsonl").write_text(json.dumps(item) + "\n")
    prompts = {"hotpotqa": "A {context} B {input} C", "triviaqa": "{context}\n{input}"}
    (tmp_path / "dataset2prompt.json").write_text(json.dumps(prompts))
    return tmp_path


def plan(folder, names, setups=(CAPKV,), **given):
    return Plan(load(folder, names), list(setups), n_ctx=512, n_items=1, **given)


def test_blind_evicts_before_the_question_and_aware_before_the_last_token(folder):
    engine = engine_that_says("yes")
    rows = list(run(engine, plan(folder, ["hotpotqa"]), Store()))
    blind, aware = (stream.story for stream in engine.streams)
    assert blind == "<u>A TEXT B |Q? C<a>" and aware == "<u>A TEXT B Q? C<a|>"
    assert [row["mode"] for row in rows] == ["blind", "aware"] and all(not stream.is_open for stream in engine.streams)


def test_without_a_policy_one_answer_serves_both_modes(folder):
    engine = engine_that_says("yes")
    rows = list(run(engine, plan(folder, ["hotpotqa"], [FULL, Setup.parse("q8_0"), Setup.parse("shift@64")]), Store()))
    assert len(engine.streams) == 3 and len(rows) == 6
    assert {row["answer"] for row in rows} == {"yes"}


def test_rows_have_the_score_the_prompt_and_the_settings(folder):
    row = next(run(engine_that_says("yes"), plan(folder, ["hotpotqa"]), Store()))
    assert row["score"] == pytest.approx(2 / 3) and row["answer"] == "yes" and row["metric"] == "qa_f1"
    assert row["dataset"] == "hotpotqa" and row["item"] in "ab" and row["prompts"].startswith("dataset2prompt.json")
    assert row["setup"] == "capkv@64" and row["budget"] == 64 and row["policy"] == "capkv" and row["n_ctx"] == 512
    assert row["n_prompt"] == 19 and row["n_cut"] == 0 and row["bytes_full"] == 2


def test_of_an_answer_after_examples_the_first_line_counts_and_no_more_is_generated(folder):
    engine = engine_that_says("\nno\n" + "and so on " * 10)
    rows = list(run(engine, plan(folder, ["triviaqa"], modes=("aware",)), Store()))
    assert rows[0]["score"] == 1.0 and len(rows[0]["answer"]) == 16
    assert engine.streams[0].story == "TEXT\nQ|?", "no chat template"


def test_a_long_first_line_is_generated_to_its_end(folder):
    engine = engine_that_says("x" * 100)
    rows = list(run(engine, plan(folder, ["triviaqa"], modes=("aware",)), Store()))
    assert rows[0]["answer"] == "x" * 32 and engine.streams[0].log[-1] == "x", "the token between the steps was read"
    engine = engine_that_says("x" * 16)
    assert next(run(engine, plan(folder, ["triviaqa"], modes=("aware",)), Store()))["answer"] == "x" * 16


def test_an_interrupted_run_goes_on_where_it_was(folder, tmp_path):
    path = tmp_path / "rows.jsonl"
    work = plan(folder, ["hotpotqa", "triviaqa"], [FULL, CAPKV])
    first = run(engine_that_says("yes"), work, Store(path))
    some = [next(first) for _ in range(3)]
    first.close()
    seen = []
    rest = list(run(engine_that_says("no"), work, Store(path), lambda *args: seen.append(args)))
    assert len(some) + len(rest) == 8 == len(Store(path).rows("longbench"))
    assert [row["answer"] for row in Store(path).rows()] == ["yes"] * 3 + ["no"] * 5
    assert seen[-1] == (8, 8, "") and [args[0] for args in seen[:-1]] == list(range(8))
    assert list(run(engine_that_says("no"), work, Store(path))) == []


def test_the_modes_have_a_line_each_in_the_table(folder):
    store = Store()
    list(run(engine_that_says("yes"), plan(folder, ["hotpotqa"], [FULL, CAPKV]), store))
    text = render(store.rows(), "md")
    lines = [line.replace(" ", "") for line in text.splitlines() if line.startswith("| hotpotqa")][:4]
    expected = [[mode, setup] for mode in ("aware", "blind") for setup in ("full", "capkv@64")]
    assert [line.split("|")[3:5] for line in lines] == expected
    assert "measured again" not in text


def test_an_unknown_mode_is_refused(folder):
    with pytest.raises(ValueError, match="mode = deaf: allowed are blind, aware"):
        next(run(engine_that_says(""), plan(folder, ["hotpotqa"], modes=("deaf",)), Store()))


def test_a_model_answers_through_every_kind_of_setup(tmp_path, tiny_llama):
    item = dict(input="Where?", context="It is here. " * 60, answers=["here"], length=1, all_classes=["here", "there"])
    for name in ("hotpotqa", "trec"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(item))
    setups = [Setup.parse(text) for text in ("full", "q8_0", "shift@128", "capkv@64", "streaming@64:q8_0")]
    with Engine(tiny_llama, n_threads=1) as engine:
        rows = list(run(engine, Plan(load(tmp_path), setups, n_ctx=768, n_items=None), Store()))
    assert len(rows) == 2 * 5 * 2 and all(0 <= row["score"] <= 1 and row["prompts"] == "built-in" for row in rows)
    answers = {(row["dataset"], row["setup"], row["mode"]): row["answer"] for row in rows}
    assert all(row["n_prompt"] <= 768 and row["n_cut"] > 0 for row in rows)
    assert answers["hotpotqa", "full", "blind"] == answers["hotpotqa", "full", "aware"]
    assert answers["hotpotqa", "capkv@64", "aware"] != answers["hotpotqa", "full", "aware"], "something is lost"
    assert all(row["n_evictions"] > 0 for row in rows if row["setup"] == "capkv@64")
    assert {row["model_hash"] for row in rows} == {engine.hash}
