"""Speed against the full cache: paired within rounds, with an interval, evictions spread over the tokens between them, a control."""

import math
import random

import bench_rows
import pytest

from capkv_edge.bench.report import output, results, rounds
from capkv_edge.bench.report.caveats import find_caveats

FIVE = range(1, 6)


def rows_of(ratio, depths=(0, 4096), load=lambda i: 1.0, n_rounds=FIVE, **changes) -> list:
    """Rounds of full and capkv@1024: ratio(depth, round) times as fast, on a machine whose speed differs by load(round)."""
    out = []
    for i in n_rounds:
        for row in bench_rows.speed(names=("capkv@1024", "full"), depths=depths):
            rate = 100 * load(i) * (ratio(row["n_depth"], i) if row["policy"] else 1)
            evictions = dict(n_evictions=0 if not row["policy"] or not row["n_depth"] else 1, n_cells=1280)
            out.append({**row, **evictions, "round": i, "avg_ts": rate, "samples_ts": [rate], "amortized_ts": None, **changes})
    return out


def ratio_of(rows, depth=4096, setup="capkv@1024"):
    found = next(row for row in rounds.tests(rows, "speed") if (row["setup"], row["n_depth"], row["n_gen"]) == (setup, depth, 128))
    return found.get("ratio")


def test_other_load_on_the_machine_cancels_within_a_round():
    found = ratio_of(rows_of(lambda depth, i: 2 + i / 100, load=lambda i: 10.0**i))
    assert found.n == 5 and found.lo < found.mean < found.hi
    assert found.mean == pytest.approx(math.prod(2 + i / 100 for i in FIVE) ** (1 / 5)) and found.hi - found.lo < 0.06


def test_twice_and_half_as_fast_are_equally_far_from_one():
    rows = rows_of(lambda depth, i: 2.0 if i % 2 else 0.5, n_rounds=range(1, 7))
    found = ratio_of(rows)
    assert found.mean == pytest.approx(1) and found.lo == pytest.approx(1 / found.hi, rel=0.05)


def test_a_round_without_the_full_cache_has_no_part_and_few_rounds_have_no_interval():
    rows = rows_of(lambda depth, i: float(i))
    some = [row for row in rows if row["policy"] or row["round"] in (2, 3)]
    found = ratio_of(some)
    assert found.n == 2 and not found.known and found.mean == pytest.approx(6**0.5)
    assert ratio_of([row for row in rows if row["policy"]]) is None and ratio_of(rows, setup="full") is None


@pytest.mark.parametrize("name", ["n_threads", "device", "lib"])
def test_a_full_cache_of_other_threads_machine_or_build_is_no_partner(name):
    slow, fast = rows_of(lambda depth, i: 2.0, **{name: "a"}), rows_of(lambda depth, i: 3.0, load=lambda i: 7.0, **{name: "b"})
    mine = [row for row in slow if row["policy"]]
    assert ratio_of(mine + [row for row in fast if not row["policy"]]) is None
    assert ratio_of(mine + [row for row in slow + fast if not row["policy"]]).mean == pytest.approx(2)


def test_the_time_of_evictions_is_spread_over_the_tokens_between_them():
    rows = rows_of(lambda depth, i: 1.0)
    for row in rows:
        if row["policy"] and row["n_depth"]:
            row["amortized_ts"] = 3 * row["avg_ts"]
    found = [row for row in rounds.tests(rows, "speed") if row["n_depth"]]
    assert {row["setup"]: row["avg_ts"] for row in found} == {"full": 100, "capkv@1024": 300}
    assert ratio_of(rows).mean == pytest.approx(3)


def test_tables_and_sentences_have_the_ratio_the_interval_and_the_cells():
    rows = rows_of(lambda depth, i: 1.9 + i / 50 if depth else 0.97 + i / 100)
    text = results.results(rows)
    assert "After 4096 tokens `capkv@1024` in 1,280 cells reads 1.96 [1.93, 2.00] and decodes 1.96 [1.93, 2.00] times as fast" in text
    assert "Decoding, times as fast as the full cache:" in text and "| `capkv@1024` | 1,280 |" in text
    head, rule, *lines = [line for line in output.render(rows, "md").splitlines() if line.startswith("|")]
    assert "| cells |" in head and head.split("|")[-2].strip() == "× full" and "1.96 [1.93, 2.00]" in " ".join(lines)


def test_the_order_of_the_turns_does_not_order_the_tables():
    rows = rows_of(lambda depth, i: 2.0)
    mixed = random.Random(1).sample(rows, len(rows))
    assert [(row["setup"], row["test"]) for row in rounds.tests(mixed, "speed")] == [
        (setup, f"{test}{depth}") for depth in ("", " @ d4096") for setup in ("full", "capkv@1024") for test in ("pp512", "tg128")
    ]
    assert results.results(mixed) == results.results(rows)


def test_a_control_that_is_not_one_is_told():
    said = "although nothing was evicted"
    good, bad = (rows_of(lambda depth, i, at=at: 2.0 if depth else at + i / 100) for at in (0.97, 1.2))
    assert not any(said in one for one in find_caveats(good))
    notes = [one for one in find_caveats(bad) if said in one]
    assert len(notes) == 2 and notes[1].startswith("speed: capkv@1024 tg128 is 1.23 [1.21, 1.25] times as fast as full, although")
    for change in (dict(n_evictions=1), dict(type_k="q8_0")):  # no control: these may differ
        other = [row | (change if row["policy"] else {}) for row in bad]
        assert not any(said in one for one in find_caveats(other))
