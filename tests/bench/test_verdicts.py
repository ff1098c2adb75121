"""What verdicts rest on: tests and their correction, documents as units over all cells, floors, equal bytes."""

import re
from math import isnan, log, nan

import bench_rows
import numpy as np
import pytest

from capkv_edge.bench.intervals import MIN_TESTED, holm, p_value
from capkv_edge.bench.report import output, pooled, results, summary, tables, verdicts
from capkv_edge.bench.report.caveats import find_caveats


def compared(rows, kind="fidelity", **options):
    return summary.comparisons(summary.summaries(rows, kind), **options)


# ---------------------------------------------------------------------------------------------------------------------
# tests


@pytest.mark.parametrize(
    "n, t, p",  # quantiles of Student's t in any table of it
    [(6, 2.5706, 0.05), (7, 3.7074, 0.01), (8, 2.3646, 0.05), (16, 2.1314, 0.05), (16, 4.0728, 0.001), (31, 2.7500, 0.01)],
)
def test_p_is_that_of_students_t(n, t, p):
    values = np.resize([-1.0, 1.0], n) if n % 2 == 0 else np.r_[np.resize([-1.0, 1.0], n - 1), 0.0]
    values = values + t * values.std(ddof=1) / n**0.5
    assert p_value(values) == pytest.approx(p, rel=2e-4)
    assert p_value(-values) == pytest.approx(p, rel=2e-4)


def test_p_of_equal_values_and_of_too_few():
    assert p_value(np.full(8, 0.1)) == 0 and p_value(np.zeros(8)) == 1
    assert isnan(p_value(np.arange(MIN_TESTED - 1))) and isnan(p_value([1.0] * 8 + [nan]))


def test_the_smallest_number_of_units_is_that_with_which_signs_can_reach_5_percent():
    assert 2 / 2**MIN_TESTED <= 0.05 < 2 / 2 ** (MIN_TESTED - 1)


def test_holms_correction_is_that_of_the_textbook():
    assert holm([0.01, 0.04, 0.03, nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, nan, 0.02], nan_ok=True)
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []


def test_of_truly_equal_setups_almost_none_wins_after_the_correction():
    rng, rows = np.random.default_rng(2), []
    for corpus in range(100):
        for setup in ("capkv@512", "snapkv@512"):
            rows += [bench_rows.fidelity_row(setup, f"d{i}", float(kl), f"c{corpus}") for i, kl in enumerate(rng.uniform(0.1, 0.2, 8))]
    found = compared(rows)
    assert 2 <= sum(one.verdict in ("wins", "loses") for one in found) <= 10
    assert sum(one.stands for one in found) == 0
    text = " ".join(verdicts.sentences(found))
    assert re.search("After Holm's correction for 100 tests 0 of the (wins|losses)( and 0 of the losses)? stand[.]", text)


# ---------------------------------------------------------------------------------------------------------------------
# all cells at once


def two_lengths(effects: dict) -> list:
    """Eight documents at two lengths; effects: {n_ctx: capkv's loss as a share of snapkv's}."""
    rows = []
    for n_ctx, effect in effects.items():
        for i in range(8):
            loss = 0.02 * (i + 1)
            rows.append(bench_rows.fidelity_row("snapkv@512", f"d{i}", loss, "novel", n_ctx))
            rows.append(bench_rows.fidelity_row("capkv@512", f"d{i}", loss * effect * (1 + 0.01 * (-1) ** i), "novel", n_ctx))
    return rows


def test_cells_of_a_document_are_averaged_before_documents_count():
    found = pooled.pool(compared(two_lengths({2048: 0.5, 4096: 0.8})))
    (one,) = [one for one in found if one.equal == "budget"]
    assert (one.own, one.other, one.effect.n, len(one.used)) == ("capkv", "snapkv", 8, 2)
    assert one.effect.mean == pytest.approx((0.5 * 0.8) ** 0.5, rel=1e-3) and one.distance == pytest.approx(log(one.effect.mean))
    assert one.verdict == "wins" and one.stands and one.effect.lo < one.effect.mean < one.effect.hi < 1


def test_documents_of_one_name_in_two_corpora_are_two_units():
    rows = two_lengths({2048: 0.5})
    rows += [row | dict(corpus="other", doc_hash="x" + row["doc_hash"]) for row in rows]
    assert {one.effect.n for one in pooled.pool(compared(rows))} == {16}


def test_texts_that_chose_no_option_are_pooled_alone_and_first():
    rows = two_lengths({2048: 0.5, 4096: 0.5})
    assert not any(one.is_held_out for one in pooled.pool(compared(rows)))
    rows += [row | dict(corpus="essays", kl_mean=row["kl_mean"] * (0.4 if row["policy"] == "capkv" else 1)) for row in rows]
    first, second = [one for one in pooled.pool(compared(rows)) if one.equal == "budget"]
    assert first.is_held_out and first.effect.mean == pytest.approx(0.5, rel=1e-3) and first.effect.n == 8
    assert not second.is_held_out and second.effect.mean == pytest.approx((0.5 * 0.2) ** 0.5, rel=1e-3) and second.effect.n == 16
    text = results.results(rows)
    assert "all cells of held-out texts pooled over 8 documents: `capkv` wins against `snapkv` (0.50)" in text
    assert "held out: texts on which no option of capkv was chosen." in text and "| held out |" in text


def test_a_pooled_win_in_one_length_and_loss_in_the_other_is_a_tie():
    found = pooled.pool(compared(two_lengths({2048: 0.5, 4096: 2.0})))
    assert {one.verdict for one in found} == {"ties"}


def test_a_loss_of_nothing_gives_no_ratio():
    rows = [row | dict(kl_mean=0.0) if row["doc"] == "d3" else row for row in two_lengths({2048: 0.5})]
    assert {one.verdict for one in pooled.pool(compared(rows))} == {"no figure"}


def test_scores_are_pooled_as_differences():
    rows = bench_rows.retrieval(12, names=("capkv@1024", "random@1024"))
    found = pooled.pool(compared(rows, "retrieval"))
    (one,) = [one for one in found if one.equal == "budget"]
    cells = [np.mean(cell.pairs[:, 0] - cell.pairs[:, 1]) for cell in one.used]
    assert len(cells) == 4 and one.effect.mean == pytest.approx(np.mean(cells)) and one.effect.n == 12


def test_the_pooled_table_leads_and_has_counts_before_and_after_the_correction():
    rows = two_lengths({2048: 0.5, 4096: 0.98})
    text = output.render(rows, "md")
    assert text.startswith("### Fidelity to the full cache: capkv against each, all cells pooled by doc\n")
    line = next(line for line in text.splitlines() if line.startswith("| snapkv"))
    assert [cell.strip() for cell in line.split("|")][2:5] == ["equal budget", "8", "2"] and "wins" in line
    document = results.results(rows)
    assert document.index("| `snapkv` | equal budget") < document.index("novel, 2048 tokens, 8 documents")
    assert "all cells pooled over 8 documents: `capkv` wins against `snapkv` (0.7" in document


# ---------------------------------------------------------------------------------------------------------------------
# floors


def scores(own: float, other: float, full: float = 0.9) -> list:
    rows = bench_rows.retrieval(10, names=("full", "capkv@256", "snapkv@256"), tasks=("needle",), lengths=(2048,))
    mean = {None: full, "capkv": own, "snapkv": other}
    return [row | dict(score=mean[row["policy"]] * (0.98 + 0.004 * row["text"])) for row in rows]


@pytest.mark.parametrize(
    "own, other, full, verdict",
    [(0.02, 0.08, 0.9, "floor"), (0.02, 0.3, 0.9, "loses"), (0.5, 0.04, 0.9, "wins"), (0.5, 0.2, 0.08, "floor")],
)
def test_a_cell_in_which_both_sides_are_on_the_floor_has_no_verdict(own, other, full, verdict):
    rows = scores(own, other, full)
    found = {one.other.setup: one for one in compared(rows, "retrieval")}
    assert found["snapkv@256"].verdict == verdict
    assert isnan(found["snapkv@256"].p) == (verdict == "floor")
    (one,) = [one for one in pooled.pool(list(found.values())) if one.equal == "budget"]
    assert one.verdict == verdict and len(one.used) == (verdict != "floor")
    text = output.render(rows, "md")
    assert "floor: score is 10 % or less on both sides, or with the full cache" in text
    assert ("1 on the floor" in " ".join(verdicts.sentences(list(found.values())))) == (verdict == "floor")


def test_the_loss_of_an_answer_has_its_floor_above():
    rows = [row | dict(nll={None: 0.2, "capkv": 2.4, "snapkv": 2.1}[row["policy"]] + 0.01 * row["text"]) for row in scores(0.5, 0.3)]
    found = summary.comparisons(summary.summaries(rows, "retrieval"), figure="nll")
    assert {one.other.setup: one.verdict for one in found} == {"full": "loses", "snapkv@256": "floor"}


def test_the_floor_of_a_loss_is_the_guess_where_rows_have_it():
    rows = [row | dict(nll=4.0 + 0.01 * row["text"] + (row["policy"] == "snapkv"), guess=5.5) for row in scores(0.5, 0.3)]
    found = summary.comparisons(summary.summaries(rows, "retrieval"), figure="nll")
    assert {one.other.setup: one.verdict for one in found} == {"full": "ties", "snapkv@256": "wins"}
    low = summary.summaries([row | dict(guess=3.9) for row in rows], "retrieval")
    assert {one.verdict for one in summary.comparisons(low, figure="nll")} == {"floor"}


@pytest.mark.parametrize("more", ["oracle", "recall", "oracle+recall"])
def test_what_does_not_answer_by_its_choice_alone_is_no_rival(more):
    rows = scores(0.5, 0.3)
    rows += [row | dict(setup=f"capkv@256+{more}", score=1.0) for row in rows if row["policy"] == "capkv"]
    assert {one.other.setup for one in compared(rows, "retrieval")} == {"full", "snapkv@256"}
    assert f"capkv@256+{more}" in output.render(rows, "md")


def test_losses_below_twice_the_floor_of_rounding_are_marked():
    rows = [
        bench_rows.fidelity_row(setup, f"d{i}", kl * (1 + 0.01 * i), "novel")
        for setup, kl in {"q8_0": 0.004, "capkv@512": 0.02, "capkv@1024": 0.007}.items()
        for i in range(8)
    ]
    document = results.results(rows)
    line = next(line for line in document.splitlines() if line.startswith("| `capkv`"))
    assert line.count(tables.MARK) == 1 and line.index("0.007") < line.index(tables.MARK)
    assert "Floor of rounding: 0.004140 [0.004065, 0.004215], the loss of `q8_0`. †: less than 2 times as much." in document
    rows += [bench_rows.fidelity_row("full,batch=256", f"d{i}", 0.011 + 0.0001 * i, "novel") for i in range(8)]
    line = next(line for line in results.results(rows).splitlines() if line.startswith("| `capkv`"))
    assert line.count(tables.MARK) == 2
    shown = output.render(rows, "md")
    assert "less than 2 times the floor of rounding, which is the loss of full,batch=256." in shown
    rows += [bench_rows.fidelity_row("capkv@3900", f"d{i}", 0.001, "novel") for i in range(8)]  # in as many bytes as the base
    assert compared(rows) == []  # the base, read otherwise, is nobody's rival


def test_a_group_without_a_measured_floor_says_so():
    rows = two_lengths({2048: 0.5, 4096: 0.5}) + [bench_rows.fidelity_row("q8_0", f"d{i}", 0.001, "novel", 2048) for i in range(8)]
    document = results.results(rows)
    assert document.count("The floor of rounding was not measured here.") == 1
    assert "The floor of rounding was not measured for novel, 4096 tokens." in output.render(rows, "md")


# ---------------------------------------------------------------------------------------------------------------------
# equal bytes


def test_setups_with_equal_budgets_and_equal_bytes_count_for_both():
    rows = bench_rows.fidelity(8, names=("capkv@512", "snapkv@512", "shift@512", "streaming@520"), corpora=("novel",), lengths=(4096,))
    for row in rows:
        row["bytes_total"] *= 2 if row["policy"] == "shift" else 1
    found = compared(rows)
    assert {one.other.setup: one.ways for one in found} == {
        "snapkv@512": ("budget", "bytes"),
        "shift@512": ("budget",),
        "streaming@520": ("bytes",),
    }
    text = " ".join(verdicts.sentences(found))
    assert "At equal budget, mean KL divergence over the same documents: of 2 comparisons" in text
    assert "At equal bytes (within 5 %), mean KL divergence over the same documents: of 2 comparisons" in text


def test_the_default_policy_in_two_types_is_compared_once_and_with_options_not_at_all():
    names = ("capkv@512", "capkv@966:q8_0", "capkv@512,novelty=0", "capkv@700:q8_0+recall", "snapkv@700:q8_0")
    rows = bench_rows.fidelity(6, names=names, corpora=("novel",), lengths=(4096,))
    assert {(one.own.setup, one.other.setup) for one in compared(rows)} == {
        ("capkv@512", "capkv@966:q8_0"),
        ("capkv@512", "capkv@512,novelty=0"),
        ("capkv@966:q8_0", "capkv@512,novelty=0"),
    }


def test_each_setup_is_shown_with_its_bytes():
    rows = bench_rows.fidelity(6, names=("capkv@512", "snapkv@512"), corpora=("novel",), lengths=(4096,))
    assert results.results(rows).count("(13.1 %)") == 2
    rows = bench_rows.retrieval(6, names=("full", "capkv@512"), tasks=("needle",), lengths=(4096,))
    lines = results.results(rows).split("texts:\n")[1].split("\n")[1:5]
    assert [line.split("|")[-2].strip() for line in lines if "---" not in line] == ["bytes, of full f16", "100.0 %", "13.1 %"]


# ---------------------------------------------------------------------------------------------------------------------
# what a reader has to know


def test_rows_say_which_builds_they_are_of():
    rows = two_lengths({2048: 0.5})
    assert find_caveats(rows) == []
    blas = [row | dict(backends=["BLAS", "CPU"]) for row in rows]
    assert [note for note in find_caveats(blas) if "16 of 16 rows were measured with a BLAS library" in note]
    dirty = [row | dict(commit="a1b2c3d-dirty") for row in rows]
    assert find_caveats(dirty) == ["fidelity: 16 of 16 rows were measured with changes that are in no commit (a1b2c3d-dirty)"]


def test_texts_that_chose_the_defaults_are_named():
    rows = [row | dict(corpus="essays") for row in two_lengths({2048: 0.5})]
    (note,) = find_caveats(rows)
    assert "of capkv were chosen on essays, so what it shows on them is partly selection on the test" in note
    assert find_caveats([row for row in rows if row["policy"] != "capkv"]) == []


def test_a_setup_that_holds_more_than_its_budget_is_named():
    rows = bench_rows.retrieval(6, names=("full", "capkv@256", "shift@256"), tasks=("needle",), lengths=(2048,))
    rows = [row | dict(haystack="novel", n_evicted={None: 0, "capkv": 1629, "shift": 1534}[row["policy"]]) for row in rows]
    assert find_caveats(rows) == ["retrieval: some setups hold more tokens than their budget when they are asked: shift@256 up to 351"]
