"""capkv_edge.bench.measure.speed: each case gets its rows, counts are right, and rows without a figure say why. No times."""

import json
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.measure import speed, speed_worker
from capkv_edge.bench.measure.speed import Plan, run
from capkv_edge.bench.report.output import render
from capkv_edge.bench.report.rounds import merge_rounds
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup

CAPKV, SHIFT = Setup.parse("capkv@64,headroom=192"), Setup.parse("shift@128,headroom=128")
SETUPS = [Setup(), Setup.parse("q8_0"), CAPKV, SHIFT]


def plan(setups=SETUPS, depths=(0, 740), **given):
    return Plan(list(setups), list(depths), **{**dict(n_prompt=96, n_gen=40, rounds=1, n_threads=1), **given})


def expected_evictions(n_before, n, step, budget=64, n_cells=256, shift=False, batch=192):
    """Evictions while n tokens are read after n_before, which come when the next batch does not fit into the cells."""
    used = done = count = 0
    for length, size in ((n_before, batch), (n, step)):
        count = done = 0
        while done < length:
            part = min(size, length - done)
            if used + part > n_cells:
                used, count = (used - (used - 4) // 2 if shift else budget), count + 1
            used, done = used + part, done + part
    return count


@pytest.fixture(scope="module")
def measured(tiny_llama, tmp_path_factory):
    """A store with all setups at two depths, and what the progress callback was told."""
    path, seen = tmp_path_factory.mktemp("speed") / "rows.jsonl", []
    rows = list(run(tiny_llama, plan(), Store(path), lambda *args: seen.append(args)))
    return path, rows, seen


def test_every_setup_depth_and_test_has_a_row(measured):
    path, rows, seen = measured
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == rows and all(row["error"] is None for row in rows)
    tests = ["pp96", "tg40", "pp96 @ d740", "tg40 @ d740"]
    assert sorted((row["setup"], row["test"]) for row in rows) == sorted((s.name, test) for s in SETUPS for test in tests)
    assert seen[-1] == (8, 8, "") and [args[0] for args in seen] == list(range(9))
    turns = [[row["setup"] for row in rows[i : i + 8 : 2]] for i in (0, 8)]
    assert [sorted(names) for names in turns] == [sorted(s.name for s in SETUPS)] * 2, "the setups take turns at each depth"
    assert turns == [[one.name for one in plan().turns(1, depth)] for depth in (0, 740)]


def test_the_order_of_the_turns_is_drawn_for_each_round_and_depth_and_can_be_repeated():
    orders = [[one.name for one in plan(seed=seed).turns(i, depth)] for seed in (1, 2) for i in range(1, 13) for depth in (0, 740)]
    assert len(set(map(tuple, orders))) > 12 and {order[0] for order in orders} == {one.name for one in SETUPS}
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert [one.name for one in plan(seed=2).turns(1, 0)] == orders[24]


def test_as_many_tokens_are_decoded_as_come_between_two_evictions_unless_their_number_is_given():
    names = [Setup.parse(name) for name in ("full", "capkv@1000", "capkv@64,headroom=300")]
    assert (Plan(names, [0]).n_gen, Plan(names[:2], [0]).n_gen, Plan(names[:1], [0]).n_gen) == (300, 280, 128)
    assert Plan(names, [0], n_batch=512).n_gen == 512 and Plan(names, [0], n_gen=64).n_gen == 64 and Plan(names, [0]).rounds == 5
    assert Plan([Setup.parse("capkv@=q4_0")], [0]).n_gen == 512


def test_a_full_cache_that_is_read_otherwise_says_how(tiny_llama):
    setups = [Setup.parse(name) for name in ("full", "full,threads=2", "full,batch=32")]
    rows = run(tiny_llama, plan(setups, (0,), n_gen=0), Store())
    found = {row["setup"]: (row["n_threads"], row["n_batch"]) for row in rows}
    assert found == {"full": (1, 512), "full,threads=2": (2, 512), "full,batch=32": (1, 32)}


def test_rows_have_the_sizes_and_settings_of_their_case(measured):
    for row in measured[1]:
        setup = Setup.parse(row["setup"])
        assert (row["n_prompt"], row["n_gen"]) == ((96, 0) if row["test"].startswith("pp") else (0, 40))
        assert row["n_ctx"] == row["n_depth"] + 96
        assert row["n_batch"] == row["n_ubatch"] == setup.n_batch and row["type_k"] == setup.type and row["flash_attn"]
        assert row["avg_ts"] > 0 and row["samples_ts"] == [row["avg_ts"]] and row["round"] == 1 and len(row["model_hash"]) == 32
        assert row["bytes_peak"] > row["bytes_total"] > 0 and row["bytes_device"] is None
        assert ("fill_ts" in row) == (row["n_depth"] > 0)


def test_evictions_are_counted_where_they_happen(measured):
    for row in measured[1]:
        n, step = (96, 96) if row["n_prompt"] else (40, 1)
        if row["setup"] == CAPKV.name:
            expected = expected_evictions(row["n_depth"], n, step)
        elif row["setup"] == SHIFT.name:
            expected = expected_evictions(row["n_depth"], n, min(step, 128), shift=True, batch=128)
        else:
            expected = 0
        assert row["n_evictions"] == expected, (row["setup"], row["test"])
        assert 0 <= row["evict_share"] < 1 and (row["evict_share"] > 0) == (row["setup"] == CAPKV.name and expected > 0)


def test_a_budget_holds_as_much_at_any_depth_and_a_full_cache_more(measured):
    held = {}
    for row in measured[1]:
        held.setdefault(row["setup"], {})[row["n_depth"]] = row["bytes_kv"]
    assert held[CAPKV.name][0] == held[CAPKV.name][740] and held["full"][0] < held["full"][740]
    assert held["q8_0"][740] < held["full"][740]


def test_an_interrupted_run_goes_on_where_it_was(measured, tiny_llama, tmp_path, monkeypatch):
    path, rows, _ = measured
    assert list(run(tiny_llama, plan(), Store(path))) == [], "all is there"
    some = tmp_path / "rows.jsonl"
    some.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    asked = []
    real = speed._ask
    monkeypatch.setattr(speed, "_ask", lambda job, *rest: asked.append(job["what"]) or real(job, *rest))
    rest = list(run(tiny_llama, plan(), Store(some)))
    assert [row["test"] for row in rest] == [rows[-1]["test"]] and asked == ["describe", "measure"]


@pytest.fixture
def counted(monkeypatch):
    """The numbers of tokens that each Timed.read() was asked to read, first to last; measured in this process."""
    found = []
    real = speed_worker.Timed.read
    monkeypatch.setattr(speed_worker.Timed, "read", lambda self, first, n, *rest: found.append((first, n)) or real(self, first, n, *rest))
    return found


def test_a_depth_is_read_once_and_a_larger_one_goes_on_from_there(tiny_llama, tmp_path, counted):
    job = dict(setup=CAPKV.name, n_batch=192, text="python-docs", seed=1, limit_s=None, sizes=dict(tg=130), states=str(tmp_path))
    with Engine(tiny_llama, n_threads=1) as engine:
        first, again, deeper = (speed_worker.measure(engine, dict(job, depth=depth)) for depth in (576, 576, 960))
        alone = speed_worker.measure(engine, dict(job, depth=960, states=None))
    assert counted == [(0, 576), (576, 130), (576, 130), (576, 384), (960, 130), (0, 960), (960, 130)]
    assert (first["fill"]["n"], again["fill"]["n"], deeper["fill"]["n"]) == (576, 0, 384)
    for name in ("n_evictions", "n_evicted", "bytes_total"):
        assert deeper["memory"][name] == alone["memory"][name] and first["memory"][name] == again["memory"][name]
    assert deeper["tg"]["n_evictions"] == alone["tg"]["n_evictions"] > 0


@pytest.mark.parametrize(("name", "read"), [("full", 64), ("q8_0", 64), (CAPKV.name, 256), (SHIFT.name, 256)])
def test_a_full_cache_holds_copies_of_its_first_tokens_at_a_depth(tiny_llama, tmp_path, counted, monkeypatch, name, read):
    monkeypatch.setattr(speed_worker, "N_COPIED", 64)
    job = dict(setup=name, depth=256, n_batch=128, text="python-docs", seed=1, limit_s=None, sizes=dict(pp=16, tg=8), states=str(tmp_path))
    with Engine(tiny_llama, n_threads=1) as engine:
        for _ in range(2):
            found = speed_worker.measure(engine, job)
            assert found["pp"]["n"] == 16 and found["memory"]["n_cells"] >= 128
    assert counted == [(0, read), (256, 16), (256, 8), (256, 16), (256, 8)]


def test_decoding_starts_from_the_same_state_whether_or_not_a_prompt_was_measured_before(tiny_llama):
    job = dict(setup=CAPKV.name, depth=576, n_batch=192, text="python-docs", seed=1, limit_s=None)
    with Engine(tiny_llama, n_threads=1) as engine:
        both = speed_worker.measure(engine, dict(job, sizes=dict(pp=150, tg=130)))
        alone = speed_worker.measure(engine, dict(job, sizes=dict(tg=130)))
    assert both["tg"]["n_evictions"] == alone["tg"]["n_evictions"] == expected_evictions(576, 130, 1) > 0
    assert both["pp"]["n_evictions"] == expected_evictions(576, 150, 150) and "pp" not in alone


def test_cases_over_the_time_limit_are_recorded_and_larger_depths_not_tried(tiny_llama, tmp_path, monkeypatch):
    store = Store(tmp_path / "rows.jsonl")
    late = plan([CAPKV], (0, 740, 900), limit_s=1e-9)
    rows = list(run(tiny_llama, late, store))
    assert [row["avg_ts"] for row in rows] == [None] * 6 and all(row["over_limit"] for row in rows)
    errors = [row["error"] for row in rows[::2]]
    assert errors[0] == "over the time limit of 1e-09 s: 0 of 96 tokens read"
    assert errors[1] == errors[2] == "over the time limit of 1e-09 s: not tried, since depth 0 took too long"
    late.rounds = 2
    asked = []
    real = speed._ask
    monkeypatch.setattr(speed, "_ask", lambda job, *rest: asked.append(job["what"]) or real(job, *rest))
    assert len(list(run(tiny_llama, late, store))) == 6 and asked == ["describe"], "known from the store: not tried"
    merged = merge_rounds(store.rows())
    assert len(merged) == 6 and all(row["n_rounds"] == 0 and row["n_failed"] == 2 and row["error"] for row in merged)


def test_a_setup_that_does_not_fit_a_depth_is_recorded_and_the_rest_measured(tiny_llama):
    rows = list(run(tiny_llama, plan([Setup.parse("capkv@=q4_0")], (0, 1500), n_gen=0), Store()))
    assert rows[0]["avg_ts"] is None and "setup = capkv@=q4_0: 96 tokens in q4_0 take less than" in rows[0]["error"]
    assert rows[1]["avg_ts"] > 0 and rows[1]["budget"] > 0


def test_a_process_that_dies_is_recorded(tiny_llama, monkeypatch):
    real = speed._ask

    def ask(job, *rest):
        if job["what"] == "measure":
            monkeypatch.setattr(speed.sys, "executable", "/bin/false")
        return real(job, *rest)

    monkeypatch.setattr(speed, "_ask", ask)
    rows = list(run(tiny_llama, plan([Setup()], (0,)), Store()))
    assert [row["error"] for row in rows] == ["the process ended with 1: without a word"] * 2


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (dict(n_prompt=0, n_gen=0), "n_prompt = 0, n_gen = 0: one of them"),
        (dict(depths=(-1,)), "depth = -1: allowed is 0 or more"),
        (dict(rounds=0), "rounds = 0: allowed is 1 or more"),
        (dict(limit_s=0), "limit = 0: allowed is"),
        (dict(setups=()), "no setup or no depth"),
        (dict(n_batch=0), "n_batch = 0: allowed is 1 or more"),
    ],
)
def test_a_plan_out_of_range_is_refused(given_, message, tiny_llama):
    with pytest.raises(ValueError, match=message):
        next(run(tiny_llama, plan(**given_), Store()))


def test_a_larger_batch_grows_the_headroom_and_the_name_says_so(tiny_llama):
    names = ["full", "capkv@64", "shift@64", "capkv@64,headroom=200", "capkv@=q4_0", "capkv@1000"]
    several = plan([Setup.parse(name) for name in names], (2000,), n_batch=256, n_gen=0)
    found = [setup.name for setup in several.setups]
    assert found == ["full", "capkv@64,headroom=256", "shift@64,headroom=256", *names[3:]]
    rows = {row["setup"]: row for row in run(tiny_llama, several, Store())}
    assert [rows[name]["n_batch"] for name in found] == [256, 256, 256, 200, rows["capkv@=q4_0"]["n_batch"], 256]
    assert all(row["avg_ts"] > 0 for row in rows.values())


def test_the_table_shows_what_failed_and_why(measured):
    late = {**measured[1][0], "samples_ts": [], "avg_ts": None, "error": "over the time limit of 3 s: read none"}
    dead = {**measured[1][1], "samples_ts": [], "avg_ts": None, "error": "no memory", "setup": "q4_0"}
    text = render(merge_rounds([measured[1][2], {**late, "over_limit": True}, dead]), "md")
    assert "| over the limit |" in " ".join(text.split()) and "| failed |" in " ".join(text.split())
    assert "note: speed: full pp96: over the time limit of 3 s: read none" in text
    assert "note: speed: q4_0 tg40: no memory" in text


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model file"):
        next(run(tmp_path / "none.gguf", plan(), Store()))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match="cannot load .*bad.gguf"):
        next(run(tmp_path / "bad.gguf", plan(), Store()))


def test_texts_are_as_long_as_is_asked_for(tiny_llama, tmp_path):
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "empty.txt").write_text("")
    with Engine(tiny_llama, n_threads=1) as engine:
        for text in ("python-docs", "random", str(tmp_path / "short.txt")):
            tokens = speed_worker.tokens_of(engine, text, 5000, 1)
            assert tokens.shape == (5000,) and 0 <= tokens.min() and tokens.max() < engine.n_vocab
        assert engine.detokenize(speed_worker.tokens_of(engine, str(tmp_path / "short.txt"), 7, 1)[1:]) == "abcabc"
        with pytest.raises(ValueError, match="there is no text in it"):
            speed_worker.tokens_of(engine, str(tmp_path / "empty.txt"), 10, 1)


RATES = st.lists(st.one_of(st.none(), st.floats(0.1, 1e5)), min_size=1, max_size=8)


@settings(max_examples=60)
@given(RATES, st.integers(1, 100))
def test_the_rounds_of_a_test_are_joined(rates, n_evictions):
    def row(i, rate):
        figures = dict(samples_ts=[] if rate is None else [rate], avg_ts=rate, error="late" if rate is None else None)
        return dict(kind="speed", setup="full", test="pp1", round=i, bytes_peak=i, n_evictions=n_evictions, **figures)

    rows = [row(i, rate) for i, rate in enumerate(rates)]
    other = [{**row(0, 1.0), "test": "tg1"}]
    merged, second = merge_rounds(rows + other)
    good = [rate for rate in rates if rate is not None]
    assert second["test"] == "tg1" and "round" not in merged
    assert merged["n_rounds"] == len(good) and merged["n_failed"] == len(rates) - len(good)
    assert merged["samples_ts"] == good
    if good:
        assert merged["error"] is None and merged["n_evictions"] == n_evictions
        assert merged["avg_ts"] == pytest.approx(sum(good) / len(good)) and min(good) <= merged["median_ts"] <= max(good)
        assert merged["stddev_ts"] == pytest.approx(statistics.stdev(good) if len(good) > 1 else 0)
        assert merged["bytes_peak"] == max(i for i, rate in enumerate(rates) if rate is not None)
    else:
        assert merged["error"] == "late" and merged["avg_ts"] is None
