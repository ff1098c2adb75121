"""The seed of the policy's sample: it reaches the sample, and seeds are averaged before intervals and shown as a spread."""

import json
from statistics import fmean, stdev
from types import SimpleNamespace

import bench_rows
import pytest
from fake_engine import FakeEngine, solve

from capkv_edge import policies
from capkv_edge.bench.cli import main
from capkv_edge.bench.full_run import SIZES
from capkv_edge.bench.measure import fidelity, retrieval
from capkv_edge.bench.options import seeded_setups_of
from capkv_edge.bench.report import output, results, summary
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import SEEDED, Setup
from capkv_edge.bench.tasks import corpora


@pytest.mark.parametrize("policy", list(policies()))
def test_a_seed_changes_the_figures_of_exactly_the_policies_that_draw_something(policy, engine):
    setups = Setup.parse(f"{policy}@100").with_seeds((1, 2))
    assert len(setups) == 1 + (policy in SEEDED)
    if policy not in SEEDED:  # what with_seeds() leaves out would be the same figures again
        setups = [Setup(policy, 100, options=(("seed", str(seed)),)) for seed in (1, 2)]
    plan = fidelity.Plan(corpora.documents(engine, "python-docs", 1, 512), setups, [512])
    first, second = (row["kl_mean"] for row in fidelity.run(engine, plan, Store()))
    assert (first != second) == (policy in SEEDED)


def test_setups_are_measured_once_for_each_seed_that_is_asked_for():
    given = SimpleNamespace(policy="capkv,streaming", budget="512", type="f16", setup="capkv@512,seed=9", seed=4, seeds="")
    assert [(one.name, one.kv_seed) for one in seeded_setups_of(given)] == [
        ("full", None),
        ("capkv@512", 4),
        ("streaming@512", None),
        ("capkv@512,seed=9", 9),
    ]
    given.seeds = "1,2"
    assert [one.kv_seed for one in seeded_setups_of(given)] == [None, 1, 2, None, 9]
    given.seeds = "1,x"
    with pytest.raises(ValueError, match="--seeds = x: allowed are numbers"):
        seeded_setups_of(given)


def test_the_command_measures_seeds_and_goes_on_with_more_of_them(tiny_llama, tmp_path, capsys):
    command = ["fidelity", str(tiny_llama), "--ctx", "512", "--docs", "1", "--budget", "100", "--policy", "capkv,streaming", "-t", "1"]
    command += ["--setup", "", "--rows", str(tmp_path / "rows.jsonl"), "-o", "jsonl"]
    assert main([*command, "--seed", "2"]) == main([*command, "--seeds", "2,3"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row["setup"], row["kv_seed"]) for row in rows] == [("capkv@100", 2), ("streaming@100", None), ("capkv@100", 3)]


def test_retrieval_reads_each_text_anew_for_each_seed_and_the_texts_stay_the_same():
    engine, setups = FakeEngine(solve), Setup.parse("capkv@128").with_seeds((1, 2))
    rows = list(retrieval.run(engine, retrieval.Plan(["niah_single_1"], setups, [800], n_texts=1), Store()))
    assert [row["kv_seed"] for row in rows] == [1, 2] == [stream.setup.kv_seed for stream in engine.streams]
    assert engine.streams[0].text == engine.streams[1].text and {row["seed"] for row in rows} == {1}


def seeded_rows() -> list:
    """Six documents under two setups; the sample of capkv@512 has three seeds, which move its mean by a tenth each."""
    rows = []
    for i in range(6):
        rows += [dict(bench_rows.fidelity_row("capkv@512", f"d{i}", 1 + i + seed / 10), kv_seed=seed) for seed in (1, 2, 3)]
        rows.append(dict(bench_rows.fidelity_row("snapkv@512", f"d{i}", 1.5 + i), kv_seed=None))
    return rows


def test_seeds_of_a_document_are_averaged_before_the_interval_and_the_verdict():
    capkv, snapkv = summary.summaries(seeded_rows(), "fidelity")
    alone = [row for row in seeded_rows() if row["kv_seed"] in (2, None)]  # the seed in the middle
    assert capkv.n == 6 and capkv.figures["kl_mean"] == pytest.approx(summary.summaries(alone, "fidelity")[0].figures["kl_mean"])
    (one,) = summary.comparisons([capkv, snapkv])
    assert one.difference.n == 6 and one.difference.mean == pytest.approx(-0.3) and one.verdict == "wins"


def test_the_spread_over_seeds_is_that_of_their_means_over_the_documents_that_all_have():
    rows = seeded_rows()
    (capkv, snapkv) = summary.summaries(rows, "fidelity")
    assert capkv.seeds == (3, pytest.approx(0.1)) and snapkv.seeds == (1, None)
    few = [row for row in rows if row["kv_seed"] != 3 or row["doc"] == "d0"]
    means = [fmean(row["kl_mean"] for row in rows if row["kv_seed"] == seed and row["doc"] == "d0") for seed in (1, 2, 3)]
    assert summary.summaries(few, "fidelity")[0].seeds == (3, pytest.approx(stdev(means)))


def test_the_spread_is_shown_where_there_are_several_seeds():
    text = output.render(seeded_rows(), "md")
    assert "| sd over seeds |" in text and "|      0.10 (3) |" in text
    assert "over the seeds of the sample (number of seeds): `capkv@512` 0.10 (3)." in results.results(seeded_rows())
    one_seed = [row for row in seeded_rows() if row["kv_seed"] in (1, None)]
    assert "seeds" not in output.render(one_seed, "md") and "of the sample" not in results.results(one_seed)


def test_the_whole_comparison_has_three_seeds_of_its_headline_rows():
    full = SIZES["full"]
    held_out = [one for reading in full.readings[0][1] for one in reading.setups]
    for setups, name in ((held_out, "capkv@512"), (full.tasks[0].setups, "capkv@1024")):
        assert sorted(one.kv_seed for one in setups if one.name == name) == [1, 2, 3]
