"""Means, intervals and verdicts of capkv-bench, on made-up rows whose true figures are known."""

import bench_rows
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.intervals import MIN_UNITS, intervals
from capkv_edge.bench.report import summary
from capkv_edge.bench.report.caveats import find_caveats
from capkv_edge.bench.report.plots import heat

PAIR = ("capkv@512", "snapkv@512")


def compared(rows, kind="fidelity"):
    return summary.comparisons(summary.summaries(rows, kind))


def test_setups_with_recall_are_series_of_their_own():
    assert summary.series_of("capkv@512:q8_0,sink=8+recall") == "capkv:q8_0,sink=8+recall"
    assert summary.series_of("capkv@512+recall") == "capkv+recall" and summary.series_of("full+recall") == "full+recall"


def one_group(n_docs=12, seed=0, names=PAIR):
    return bench_rows.fidelity(n_docs, seed, names, corpora=("novel",), lengths=(4096,))


@pytest.mark.parametrize("n", [6, 12, 40])
def test_the_interval_covers_the_true_mean_about_95_percent_of_the_time(n):
    drawn = np.random.default_rng(n).lognormal(-0.08, 0.4, (n, 800))  # 800 figures whose true mean is 1
    covered = np.mean([one.lo <= 1 <= one.hi for one in intervals(drawn)])
    assert 0.91 <= covered <= 0.985


def test_truly_equal_setups_win_or_lose_about_one_time_in_twenty():
    rng = np.random.default_rng(1)
    verdicts = intervals(rng.normal(0, 1, (12, 800)))
    assert 0.02 <= np.mean([one.lo > 0 or one.hi < 0 for one in verdicts]) <= 0.09


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=MIN_UNITS, max_size=30), st.floats(-1e3, 1e3))
def test_an_interval_is_around_its_mean_and_moves_with_the_values(values, shift):
    (found,), (moved,) = intervals(np.array(values)[:, None]), intervals(np.array(values)[:, None] + shift)
    slack = 1e-9 * (1 + max(map(abs, values)) + abs(shift))
    assert min(values) - slack <= found.lo <= found.mean + slack and found.mean - slack <= found.hi <= max(values) + slack
    for name in ("mean", "lo", "hi"):
        assert getattr(moved, name) == pytest.approx(getattr(found, name) + shift, abs=slack)


def test_the_interval_of_equal_values_is_exactly_that_value():
    (found,) = intervals(np.full((9, 1), 0.1))
    assert (found.mean, found.lo, found.hi) == (0.1, 0.1, 0.1)


def test_a_bound_that_is_zero_but_for_rounding_is_zero():
    for n in (10, 11, 13):
        (found,) = intervals(np.array([0.2] + [0.0] * (n - 1))[:, None])
        assert found.lo == 0


@pytest.mark.parametrize("n", [0, 1, MIN_UNITS - 1])
def test_few_units_give_a_mean_without_an_interval_and_no_verdict(n):
    (found,) = intervals(np.linspace(1, 2, n)[:, None] if n else np.zeros((0, 1)))
    assert found.n == n and not found.known
    if n:
        assert [one.verdict for one in compared(one_group(n))] == ["too few"]


@pytest.mark.parametrize("better, verdict", [(0.9, "wins"), (1.0, "ties"), (1.1, "loses")])
def test_a_verdict_is_that_of_the_paired_difference(better, verdict):
    """A tenth more or less is seen in pairs, though documents differ from each other by far more."""
    rng = np.random.default_rng(3)
    hard, noise = rng.lognormal(0, 0.6, 16), rng.normal(0, 0.02, 16)
    rows = []
    for i in range(16):
        rows.append(bench_rows.fidelity_row("capkv@512", f"d{i}", hard[i] * better + noise[i] - noise.mean()))
        rows.append(bench_rows.fidelity_row("snapkv@512", f"d{i}", hard[i]))
    (found,) = compared(rows)
    assert found.verdict == verdict
    own = found.own.figures["kl_mean"]
    assert own.lo <= found.other.figures["kl_mean"].mean <= own.hi  # without pairs, no difference would be seen


def test_more_is_better_for_a_score():
    rows = bench_rows.retrieval(12, names=("capkv@1024", "random@1024"), tasks=("needle",), lengths=(2048,))
    (found,) = compared(rows, "retrieval")
    assert found.difference.mean > 0 and found.verdict == "wins"


def test_pairs_are_the_units_that_both_have():
    rows = one_group()
    missing = {(PAIR[0], "doc-00"), (PAIR[0], "doc-01"), (PAIR[1], "doc-05")}
    rows = [row for row in rows if (row["setup"], row["doc"]) not in missing]
    (found,) = compared(rows)
    assert (found.own.n, found.other.n, found.difference.n) == (10, 11, 9)
    assert any("some groups have more docs for other setups than for capkv@512" in note for note in find_caveats(rows))


def test_batches_of_different_size_do_not_keep_setups_apart():
    rows = [row | dict(n_batch=128 if row["policy"] == "capkv" else 512) for row in one_group()]
    assert [one.difference.n for one in compared(rows)] == [12]
    assert find_caveats(rows) == []


def test_the_order_of_rows_changes_nothing():
    rows = one_group(8, names=("capkv@512", "snapkv@512", "q4_0"))
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    first, second = summary.summaries(rows, "fidelity"), summary.summaries(mixed, "fidelity")
    assert [(one.setup, one.figures) for one in first] == [(one.setup, one.figures) for one in second]


def test_seeds_of_one_document_count_as_one_document():
    rows = one_group(8)
    again = [row | dict(seed=2, kl_mean=row["kl_mean"] * 3) for row in rows]
    one, both = summary.summaries(rows, "fidelity")[0], summary.summaries(rows + again, "fidelity")[0]
    assert both.n == 8 and both.figures["kl_mean"].mean == pytest.approx(2 * one.figures["kl_mean"].mean)


def test_rows_of_two_models_are_never_merged():
    rows = one_group(6)
    other = [row | dict(model_hash="f" * 32, kl_mean=row["kl_mean"] + 1) for row in rows]
    found = summary.summaries(rows + other, "fidelity")
    assert [one.n for one in found] == [6] * 4 and len({one.model_hash for one in found}) == 2
    assert all(one.own.model_hash == one.other.model_hash for one in summary.comparisons(found))
    assert any("2 models, kept apart" in note for note in find_caveats(rows + other))


def test_rows_of_different_groups_are_not_averaged_together():
    rows = bench_rows.retrieval(6, names=PAIR, tasks=("needle",), lengths=(2048,))
    other = [row | dict(depths=[0.5]) for row in rows] + [row | dict(mode="aware") for row in rows]
    assert [one.n for one in summary.summaries(rows + other, "retrieval")] == [6] * 6


def test_rows_of_two_commits_give_a_caveat():
    rows = one_group(6)
    mixed = [row | dict(commit="fffffff" if row["doc"] == "doc-03" else "a1b2c3d") for row in rows]
    assert find_caveats(rows) == []
    found = find_caveats(mixed)
    assert any("commit is not the same in all rows: a1b2c3d (10 rows), fffffff (2 rows)" in note for note in found)
    assert any("differ in commit are averaged together in capkv@512, snapkv@512" in note for note in found)


def test_of_rows_measured_again_the_later_ones_count_and_a_caveat_says_so():
    rows = one_group(6)
    again = [rows[0] | dict(kl_mean=rows[0]["kl_mean"] + 6.0)]
    before, after = (summary.summaries(some, "fidelity")[0].figures["kl_mean"].mean for some in (rows, rows + again))
    assert after == pytest.approx(before + 1)
    assert "fidelity: 1 rows were measured again; the later ones count" in find_caveats(rows + again)


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_figure_that_is_no_number_gives_no_mean_and_no_verdict(bad):
    rows = one_group(8)
    rows[3] = rows[3] | dict(kl_mean=bad)
    found = summary.summaries(rows, "fidelity")
    assert found[0].figures["kl_mean"].mean != found[0].figures["kl_mean"].mean
    assert found[0].figures["same_top"].known and found[1].figures["kl_mean"].known
    assert [one.verdict for one in summary.comparisons(found)] == ["no figure"]
    assert any("kl_mean is not a number in rows of capkv@512" in note for note in find_caveats(rows))


def test_setups_are_compared_at_equal_budget_at_equal_bytes_and_with_the_full_cache():
    names = ("full", "q4_0", "capkv@256", "capkv@512", "capkv@512:q8_0", "snapkv@512", "snapkv@256:q8_0", "capkv@1092")
    fidelity = compared(one_group(6, names=names))
    assert {(one.own.setup, one.other.setup, one.equal) for one in fidelity} == {
        ("capkv@512", "snapkv@512", "budget"),
        ("capkv@1092", "q4_0", "bytes"),
    }
    rows = bench_rows.retrieval(6, names=("full", "capkv@512"), tasks=("needle",), lengths=(2048,))
    assert [(one.other.setup, one.equal) for one in compared(rows, "retrieval")] == [("full", "")]


@pytest.mark.parametrize(
    "setup, series",
    [
        ("full", "full"),
        ("capkv@512", "capkv"),
        ("capkv@512:q8_0", "capkv:q8_0"),
        ("capkv@=q4_0", "capkv"),
        ("capkv@512,novelty=0", "capkv,novelty=0"),
        ("capkv@512:q8_0,sink=8", "capkv:q8_0,sink=8"),
    ],
)
def test_a_series_is_a_setup_without_its_budget(setup, series):
    assert summary.series_of(setup) == series


def test_summaries_come_with_the_full_cache_first_and_the_default_before_other_policies():
    rows = one_group(5, names=("streaming@512", "capkv@1024", "h2o@512", "q4_0", "capkv@256", "q8_0", "full"))
    order = ["full", "q8_0", "q4_0", "capkv@256", "capkv@1024", "h2o@512", "streaming@512"]
    assert [one.setup for one in summary.summaries(rows, "fidelity")] == order


def test_a_heat_map_has_the_mean_score_of_each_depth_and_length():
    rows = bench_rows.retrieval(1, names=("full",), tasks=("needle",), lengths=(1024, 2048))
    for row, scores in zip(rows, ([1, 0, 1, 1], [0, 0, 0, 1])):
        depths = (0.0, 0.1, 0.5, 1.0)
        row["items"] = [dict(depth=depth, score=score) for depth, score in zip(depths, scores)]
    (found,) = heat.heat_maps(rows, "retrieval", n_bins=2)
    assert found.lengths == [1024, 2048]
    np.testing.assert_array_equal(found.counts, [[2, 2], [2, 2]])
    np.testing.assert_array_equal(found.scores, [[0.5, 0.0], [1.0, 0.5]])
