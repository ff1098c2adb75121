"""Recall in the retrieval measurement: what comes back with a question, and what a row says of it."""

import pytest
from fake_engine import FakeEngine, FakeStream, solve

from capkv_edge.bench.measure import retrieval
from capkv_edge.bench.report.summary import comparisons, summaries
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup
from capkv_edge.bench.run.stream import Stream

FULL, PLAIN, MORE = Setup(), Setup.parse("streaming@128"), Setup.parse("streaming@128+recall")
MARK = "[Recalled from earlier"


def rows_of(engine, setups, task="needles_3", **options):
    options = {"lengths": [1500], "n_texts": 1, "share": 3, "haystack": "python-docs", **options}
    return list(retrieval.run(engine, retrieval.Plan([task], setups, **options), Store()))


def last_turns(stream):
    return [read for read in stream.log if MARK in read]


def test_the_passage_with_the_answer_stands_at_the_end_of_the_turn():
    engine = FakeEngine(solve)
    (row,) = rows_of(engine, [MORE])
    (stream,) = engine.streams
    assert len(last_turns(stream)) == 6  # each question, and again for the loss of its answer
    for item, read in zip(row["items"], last_turns(stream)[::2], strict=True):
        question, _, back = read.partition(MARK)
        assert item["question"] in question and item["expected"][0] in back
        assert back.index("]") < back.index("<|end|>")
        assert len(item["recalled"]) >= 1 and all(begin < end for begin, end in item["recalled"]) and item["t_recall"] > 0
        assert any(item["expected"][0] in engine.detokenize(stream.tokens[begin:end]) for begin, end in item["recalled"])
    assert row["recall"] == 256 and row["bytes_recall"] > 4 * 1000


def test_what_came_back_is_pinned_before_it_is_read(engine, monkeypatch):
    pinned, pin = [], Stream.pin

    def note(self, start, stop):
        pin(self, start, stop)
        pinned.append(stop - start)

    monkeypatch.setattr(Stream, "pin", note)
    row, _ = rows_of(engine, [Setup.parse("capkv@512+recall"), FULL], lengths=[1000], share=1)
    assert row["items"][0]["recalled"] and len(pinned) == 2  # for the answer, and for its loss
    assert set(pinned) < set(range(60, 257))


def test_setups_that_differ_in_recall_share_one_reading():
    engine = FakeEngine(solve)
    plain, more = rows_of(engine, [PLAIN, MORE])
    (stream,) = engine.streams
    assert not stream.is_open and sum(read.startswith("<|start|>user\nSome magic numbers") for read in stream.log) == 1
    assert (plain["setup"], more["setup"]) == ("streaming@128", "streaming@128+recall")
    assert [item["question"] for item in plain["items"]] == [item["question"] for item in more["items"]]
    assert not {"recall", "bytes_recall"} & plain.keys() and "recalled" not in plain["items"][0]
    assert plain["n_tokens"] == more["n_tokens"]


def test_the_full_cache_reads_a_text_once_too_and_counts_what_comes_back_where_it_does(engine, monkeypatch):
    opened, opens = [], engine.open
    monkeypatch.setattr(engine, "open", lambda *args, **options: opened.append(args) or opens(*args, **options))
    full, more = rows_of(engine, [FULL, Setup.parse("full+recall")], lengths=[1000], share=1)
    assert len(opened) == 1 and (full["n_cells"], more["n_cells"]) == (1000, 1256)
    assert full["bytes_total"] == full["bytes_full"] < more["bytes_total"]


def test_what_is_held_does_not_come_back_but_in_the_full_cache(monkeypatch):
    monkeypatch.setattr(FakeStream, "n_held", 10_000)
    engine = FakeEngine(solve)
    full, more, held = rows_of(engine, [FULL, Setup.parse("full+recall"), MORE])
    assert len(engine.streams) == 2
    assert all(item["recalled"] for item in more["items"]) and not any(item["recalled"] for item in held["items"])
    assert "recalled" not in full["items"][0]


def test_in_mode_aware_passages_are_read_with_the_question():
    engine = FakeEngine(solve)
    _, more = rows_of(engine, [PLAIN, MORE], modes=["aware"])
    assert len(engine.streams) == 2
    log = engine.streams[1].log
    assert any(MARK in read for read in log[: log.index("compress")]) and more["items"][0]["recalled"]


def test_a_dialogue_tells_its_facts_again():
    engine = FakeEngine(solve)
    (row,) = rows_of(engine, [MORE], "recall", n_turns=60, share=8)
    assert sum(bool(item["recalled"]) for item in row["items"]) >= 6


def test_the_report_keeps_recall_and_pins_apart():
    rows = rows_of(FakeEngine(solve), [FULL, Setup.parse("full+recall"), PLAIN, MORE], n_texts=6)
    rows += [{**row, "setup": "streaming@128+pin"} for row in rows if row["setup"] == "streaming@128"]
    found = summaries(rows, "retrieval")
    assert [one.setup for one in found if one.is_full] == ["full"] and len({one.series for one in found}) == 5
    pairs = {(one.own.setup, one.other.setup) for one in comparisons(found, "streaming")}
    assert pairs == {("streaming@128", "full")}  # what is pinned or recalled is not the choice of a policy


def test_a_stream_knows_what_it_holds(engine):
    tokens = engine.tokenize("some words and more " * 30)
    with engine.open(PLAIN, 1024) as stream:
        stream.read(tokens)
        stream.compress()
        assert stream.n_gone == len(tokens) - 64
        assert stream.held().is_gone(10, 200) and not stream.held().is_gone(len(tokens) - 64, len(tokens))
    with engine.open(FULL, 1024, n_more=100) as stream:
        stream.read(tokens)
        assert stream.n_gone == len(tokens) and not stream.held().is_gone(0, 100)
        assert stream.memory()["bytes_full"] == pytest.approx(1024 * engine.bytes_per_token("f16"))
