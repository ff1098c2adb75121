"""The runner of retrieval: what is read when, what is skipped, and what a row says."""

import re

import numpy as np
import pytest
import qa_files
from fake_engine import BOS, FakeEngine, solve

from capkv_edge.bench.measure import divergence, retrieval
from capkv_edge.bench.measure.retrieval import Plan, Reader, run
from capkv_edge.bench.run.engine import Engine
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup
from capkv_edge.bench.tasks import registry
from capkv_edge.bench.tasks.questions import Item, Text

FULL, SMALL = Setup(), Setup.parse("streaming@128")


@pytest.fixture
def files(tmp_path):
    return dict(squad=qa_files.squad(tmp_path / "squad.json"), hotpotqa=qa_files.hotpotqa(tmp_path / "hotpotqa.json"))


@pytest.fixture(scope="module")
def demo():
    """An engine with a real tokenizer."""
    with Engine("demo", n_threads=1) as engine:
        yield engine


def plan(names=("niah_single_1",), setups=(FULL, SMALL), **options):
    return Plan(list(names), list(setups), **{"lengths": [800], "n_texts": 2, **options})


def test_a_perfect_model_scores_1_in_every_task_and_a_mute_one_0(files):
    options = dict(share=3, haystack="python-docs", lengths=[1500], files=files)
    every = plan(registry.TASKS, [FULL], n_texts=3, modes=["blind", "aware"], **options)
    for reply, score in ((solve, 1), (lambda text: "", 0)):
        rows = list(run(FakeEngine(reply), every, Store()))
        assert len(rows) == 2 * 3 * len(registry.TASKS)
        assert {row["score"] for row in rows} == {score}
        assert {item["score"] for row in rows for item in row["items"]} == {score}


def test_texts_with_question_and_answer_fill_their_context_and_no_more(files):
    def talkative(text):
        return "so " * 500

    engine = FakeEngine(talkative)
    rows = list(run(engine, plan(registry.RULER, [SMALL], haystack="python-docs", lengths=[1500, 2000], files=files), Store()))
    assert all(not stream.is_open for stream in engine.streams)
    for row, stream in zip(rows, engine.streams, strict=True):
        assert row["n_tokens"] == stream.n_most <= stream.n_ctx == row["n_ctx"] == row["length"]
        assert stream.tokens[0] == BOS and stream.tokens.count(BOS) == 1


@pytest.mark.parametrize("mode", ["blind", "aware"])
def test_the_question_is_read_after_the_eviction_when_blind_and_before_it_when_aware(mode):
    engine = FakeEngine(solve)
    (row,) = run(engine, plan(setups=[SMALL], n_texts=1, modes=[mode]), Store())
    log, question = engine.streams[0].log, row["items"][0]["question"]
    before, after = (" ".join(part) for part in (log[: log.index("compress")], log[log.index("compress") :]))
    key = re.search(r"\w+-\w+", question)[0]
    assert before.count(f"One of the special magic numbers for {key} is") == 1
    assert (question in before, question in after) == (mode == "aware", mode == "blind")
    assert "<|end|>" in after and "<|end|>" not in before and row["mode"] == mode
    if mode == "blind":
        assert before.count(key) == 1


def test_a_question_that_was_told_stands_before_the_text_and_is_asked_after_the_eviction(files):
    names, engine = (*registry.RULER, "needles_3"), FakeEngine(solve)
    options = dict(modes=["told"], haystack="python-docs", lengths=[1500], n_texts=1, files=files, share=None)
    rows = list(run(engine, plan(names, [SMALL], **options), Store()))
    for row, stream in zip(rows, engine.streams, strict=True):
        (item,) = row["items"]
        at = stream.log.index("compress")
        before, after = "".join(stream.log[:at]), "".join(stream.log[at:])
        assert before.startswith(f"<|start|>user\n{item['question']}\n\n") and item["question"] in after
        assert row["mode"] == "told" and row["share"] == 1 and row["score"] == 1 and row["n_tokens"] <= 1500
    with pytest.raises(ValueError, match="mode = told: allowed are tasks with a text, not the dialogues of recall"):
        plan(["vt", "recall"], modes=["told"])


def test_each_question_of_a_text_is_asked_alone_from_the_same_state():
    engine = FakeEngine(solve)
    (row,) = run(engine, plan(["needles_3"], [SMALL], n_texts=1, share=None, haystack="python-docs"), Store())
    (stream,) = engine.streams
    assert row["share"] == len(row["items"]) == 3 and stream.log.count("back") == 5  # before a question, before an answer's loss
    assert sum("Some magic numbers" in read for read in stream.log) == 1  # the text was read once
    assert stream.text.count("What is the magic number") == 1
    assert len({item["expected"][0] for item in row["items"]}) == 3


def test_tasks_and_modes_of_one_question_have_one():
    conditions = plan(["vt", "niah_multikey_1", "cwe", "recall"], share=20, modes=["blind", "aware"]).conditions
    assert [(one.task, one.mode, one.share) for one in conditions] == [
        ("vt", "blind", 1),
        ("vt", "aware", 1),
        ("niah_multikey_1", "blind", 4),
        ("niah_multikey_1", "aware", 1),
        ("cwe", "blind", 1),
        ("cwe", "aware", 1),
        ("recall", "blind", 8),
        ("recall", "aware", 1),
    ]
    own = plan(["niah_multikey_1", "needles_10", "recall"], share=None).conditions
    assert [one.share for one in own] == [1, 10, 5]


def test_the_cost_is_told_in_readings_and_tokens():
    cost = plan(["needles_1", "needles_3", "recall"], lengths=[800, 1000], n_texts=3).cost
    assert cost == "30 readings (3 texts by 2 setups): 21,600 tokens to read at most, 6 dialogues of 20 turns"


def test_texts_have_stretches_of_the_haystack_of_their_own(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"This is sentence number {i}. " for i in range(1000)))
    rows = list(run(FakeEngine(solve), plan([*registry.NEEDLES], [FULL], n_texts=8, haystack=str(path), share=None), Store()))
    for name in registry.NEEDLES:
        starts = sorted(row["haystack_at"] for row in rows if row["task"] == name)
        assert len(starts) == 8 and all(b - a > 800 for a, b in zip(starts, starts[1:]))  # 800 tokens have more characters
    assert len({row["haystack_at"] for row in rows}) == 8  # tasks share them, so that they differ in the needles alone


def test_rows_in_the_file_are_not_measured_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    few, all_of_it = plan(n_texts=1), plan(["niah_single_1", "recall"], n_texts=2)
    first = list(run(FakeEngine(solve), few, Store(path)))
    engine, seen = FakeEngine(solve), []
    then = list(run(engine, all_of_it, Store(path), lambda done, total, label: seen.append((done, total))))
    assert len(first) == 2 and len(then) == len(engine.streams) == 8 - 2
    assert seen == [(i, 8) for i in range(9)]
    again = FakeEngine(solve)
    assert list(run(again, all_of_it, Store(path))) == [] and again.streams == []
    assert Store(path).rows() == first + then


@pytest.mark.parametrize(
    "change",
    [dict(seed=5), dict(share=1), dict(depths=(0.5,)), dict(lengths=[900]), dict(modes=["aware"]), dict(setups=[FULL])],
)
def test_another_option_is_another_measurement(change):
    store, engine = Store(), FakeEngine(solve)
    same = dict(names=["needles_3"], setups=[SMALL], n_texts=1, share=3, haystack="noise")
    list(run(engine, plan(**same), store))
    assert len(list(run(engine, plan(**{**same, **change}), store))) == 1


def test_all_setups_come_to_the_first_texts_before_any_comes_to_the_next():
    rows = list(run(FakeEngine(solve), plan(["niah_single_1", "vt"], n_texts=2, lengths=[1500]), Store()))
    assert [(row["text"], row["task"], row["setup"]) for row in rows] == [
        (text, task, setup) for text in (0, 1) for task in ("niah_single_1", "vt") for setup in ("full", "streaming@128")
    ]
    by_text = {row["text"]: [item["expected"] for item in row["items"]] for row in rows if row["task"] == "vt"}
    assert by_text[0] != by_text[1]
    assert all([i["expected"] for i in row["items"]] == by_text[row["text"]] for row in rows if row["task"] == "vt")


def test_where_the_full_cache_fails_nothing_else_is_tried():
    def only_needles(text):
        return solve(text) if "magic" in text else "no idea"

    store, engine, seen = Store(), FakeEngine(only_needles), []
    picky = plan(["vt", "niah_single_1"], [SMALL], min_base=0.5, lengths=[1500])
    out = list(run(engine, picky, store, lambda done, total, label: seen.append((done, total))))
    kinds = [(row["kind"], row["task"], row.get("setup")) for row in out]
    assert kinds[:5] == [
        *[("retrieval", task, "full") for _ in range(2) for task in ("vt", "niah_single_1")],
        ("skipped", "vt", None),
    ]
    assert kinds[5:] == [("retrieval", "niah_single_1", "streaming@128")] * 2
    assert out[4] == dict(
        kind="skipped", task="vt", haystack="noise", length=1500, mode="blind", share=1, score=0.0, min_base=0.5
    )
    assert seen[-1] == (8, 8) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(store.rows()) == 6
    (skipped,) = run(FakeEngine(only_needles), picky, store)  # with the scores in the store
    assert skipped["task"] == "vt"


def test_a_row_says_what_was_measured():
    (row,) = run(
        FakeEngine(solve), plan(["niah_single_2"], [SMALL], n_texts=1, depths=(0.25,), haystack="python-docs"), Store()
    )
    expected = dict(
        kind="retrieval",
        task="niah_single_2",
        haystack="python-docs",
        length=800,
        mode="blind",
        share=1,
        depths=[0.25],
        n_turns=None,
        seed=1,
        text=0,
        setup="streaming@128",
        policy="streaming",
        budget=128,
        type_k="f16",
        n_ctx=800,
        score=1.0,
        bytes_kv=1,
        bytes_full=2,
        model="fake.gguf",
        model_hash="f00",
    )
    assert {name: row[name] for name in expected} == expected
    (item,) = row["items"]
    assert item["answer"] == item["expected"][0] and item["score"] == 1 and item["depth"] == 0.25
    assert item["question"].startswith("What is the special magic number for ")
    assert item["guess"] > 0 and row["haystack_at"] > 0 and row["wording"] == registry.find("niah_single_2").wording


def test_a_file_as_haystack_is_named_by_its_text_without_its_folder(tmp_path):
    names = []
    for folder, said in (("a", "dark"), ("b", "bright"), ("c", "dark")):
        path = tmp_path / folder / "book.txt"
        path.parent.mkdir()
        path.write_text(f"It was a {said} night. " * 30)
        (row,) = run(FakeEngine(solve), plan(["niah_multikey_1"], [FULL], n_texts=1, haystack=str(path)), Store())
        assert row["haystack"].startswith("book.txt#") and row["score"] == 1
        names.append(row["haystack"])
    assert names[0] == names[2] != names[1]


def test_a_dialogue_counts_turns_and_gets_the_context_that_it_needs():
    engine = FakeEngine(solve)
    rows = list(run(engine, plan(["recall"], [SMALL, Setup.parse("streaming@=q4_0")], n_turns=40, n_texts=1), Store()))
    for row in rows:
        assert row["length"] == row["n_turns"] == 40
        assert row["n_tokens"] <= row["n_ctx"] < row["n_tokens"] + 256 and row["n_ctx"] % 256 == 0
    assert rows[1]["setup"] == "streaming@=q4_0" and rows[1]["budget"] == engine.streams[1].setup.budget > 128


@pytest.mark.parametrize(
    "reply,n",
    [("The number is 42, as everybody knows who has read the text up to its end and did not sleep.", 8), ("so " * 99, 40)],
)
def test_an_answer_ends_once_its_score_is_settled(reply, n):
    engine = FakeEngine(lambda text: reply)
    stream = engine.open(FULL, 100)
    stream.read(engine.tokenize("What?"))
    said = retrieval.answer(stream, Item("What?", ("42",), 40))
    assert len(engine.tokenize(said)) == n and reply.startswith(said)


def test_the_loss_of_the_expected_answer_is_that_of_its_tokens_one_by_one(engine):
    rng = np.random.default_rng(3)
    text, opening, expected = (rng.integers(3, engine.n_vocab, n).tolist() for n in (600, 20, 5))
    with engine.open(Setup.parse("capkv@128"), 1024) as stream:
        stream.read(text)
        stream.compress()
        mark = stream.mark()
        found = retrieval.nll_of(stream, opening, expected)
        stream.back(mark)
        stream.read(opening)
        losses = []
        for token in expected:
            losses.append(-divergence.log_softmax(stream.last()[None])[0, token])
            stream.read([token])
    assert found == pytest.approx(np.mean(losses), rel=1e-3) and np.std(losses) > 0


def test_answers_have_a_loss_unless_others_are_as_right(files):
    names = (*registry.RULER, "needles_3", "recall", "instruction")
    options = dict(share=2, haystack="python-docs", lengths=[1500], files=files)
    for row in run(FakeEngine(solve), plan(names, [FULL], **options), Store()):
        for found in (row, *row["items"]):
            assert found["nll"] == (None if row["task"] == "instruction" else pytest.approx(np.log(FakeEngine.n_vocab)))
            assert (found["guess"] is None) == (row["task"] in ("instruction", "cwe", "qa_1", "qa_2"))


def test_of_an_answer_of_several_strings_what_stands_between_does_not_count(engine):
    item = Item("?", ("12", "34"), 8, "they are:")
    assert item.reference == ((" 12", True), (",", False), (" 34", True))
    listed = Item("?", ("a", "b"), 8, "are:", marks=(" 1.", " 2."))
    assert listed.reference == ((" 1.", False), (" a", True), (" 2.", False), (" b", True))
    assert Item("?", ("A", "B"), 8, "are: ", marks=("", "")).reference == (("A", True), (" B", True))
    opening, tokens = engine.tokenize("they are:"), engine.tokenize(" 12") + engine.tokenize(",") + engine.tokenize(" 34")
    n = len(engine.tokenize(" 12"))
    losses = []
    for counts in (None, [True] * n + [False] + [True] * (len(tokens) - n - 1), [False] * n + [True] + [False] * (len(tokens) - n - 1)):
        with engine.open(FULL, 256) as stream:
            losses.append(retrieval.nll_of(stream, opening, tokens, counts))
    every, values, comma = losses
    assert every == pytest.approx((values * (len(tokens) - 1) + comma) / len(tokens), rel=1e-5) and values != pytest.approx(comma)


def test_a_guess_is_computed_from_the_tokens_of_the_answer():
    (row,) = run(FakeEngine(solve), plan(["niah_multivalue"], [FULL], n_texts=1, haystack="noise"), Store())
    n_tokens = 2  # of " 1234567" where words and blanks are tokens
    assert row["guess"] == pytest.approx(np.log(9e6) / n_tokens)


# --- an oracle ---


def test_the_evidence_of_a_text_is_found_in_its_tokens(demo, files):
    reader = Reader(demo)
    options = dict(files=files, lengths=[1024], haystack="python-docs", share=3)
    for one in plan([name for name in registry.TASKS if registry.find(name).has_evidence], [FULL], **options).conditions:
        text = retrieval.make_text(reader, plan(["needles_3"]), one, 0)
        spans, tokens = reader.evidence(text), reader.prefix(text)
        assert spans and len(spans) == len(text.evidence)
        for passage, (start, stop) in zip(text.evidence, spans):
            assert passage in demo.detokenize(tokens[start:stop])
            assert passage not in demo.detokenize(tokens[start + 1 : stop]) and passage not in demo.detokenize(tokens[start : stop - 1])


@pytest.mark.parametrize("name, holds", [("streaming@180", False), ("streaming@180+oracle", True)])
def test_an_oracle_holds_the_needles_to_the_last_question(demo, name, holds):
    reader, how = Reader(demo), plan(["needles_3"], depths=(0.2, 0.4, 0.6), haystack="noise", lengths=[700], share=3)
    text = retrieval.make_text(reader, how, how.conditions[0], 0)
    with demo.open(Setup.parse(name), 700) as stream:
        reading = retrieval.Reading(stream, reader, text, "blind")
        assert len(reading.ask()) == 3 and stream.memory()["n_evictions"] > 1
        kv = stream._kv
        for start, stop in reader.evidence(text):
            assert all(np.isin(range(start, stop), kv.positions(*head)).all() for head in kv.heads) == holds


def test_an_oracle_without_room_for_the_needles_is_refused_before_anything_is_measured(demo):
    store, how = Store(), plan(["needles_1", "needles_10"], [FULL, Setup.parse("capkv@128+oracle")], haystack="noise", share=1)
    with pytest.raises(ValueError, match=r"setup = capkv@128\+oracle: pin"):
        list(run(demo, how, store))
    assert store.rows() == []


def test_an_oracle_is_refused_where_no_passage_has_the_answer():
    with pytest.raises(ValueError, match=r"setup = capkv@512\+oracle: the task cwe has no passages that have its answers"):
        plan(["vt", "cwe"], [Setup.parse("capkv@512+oracle")])


def test_a_begin_of_sequence_that_the_template_has_is_not_doubled():
    engine = FakeEngine()
    engine.bos = engine.tokenize("<|start|>", special=True)[0]
    tokens = Reader(engine).prefix(Text("Hello", ()))
    assert tokens.count(engine.bos) == 1 and engine.detokenize(tokens) == "<|start|>user\nHello"


def test_a_text_cannot_end_the_turn_of_the_user():
    engine = FakeEngine()
    item = Item("<|end|>?", ("x",), 1)
    reader = Reader(engine)
    end = engine.tokenize("<|end|>", special=True)[0]
    read = reader.prefix(Text("a <|end|> b", (item,))) + reader.question(item) + reader.opening(Text("", ()), item)
    assert read.count(end) == 1


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(modes=["deaf"]), "mode = deaf: allowed are blind, aware, told"),
        (dict(n_texts=0), "n_texts = 0: allowed is 1 or more"),
        (dict(share=0), "share = 0: allowed is 1 or more"),
        (dict(n_turns=-1), "n_turns = -1: allowed is 1 or more"),
        (dict(min_base=2), "min_base = 2: allowed is 0 to 1"),
        (dict(names=["qa_2"]), "task = qa_2: it reads the data set's file: --hotpotqa FILE"),
        (dict(names=["sudoku"]), "task = sudoku: allowed are niah_single_1"),
    ],
)
def test_a_plan_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(**change)


@pytest.mark.parametrize("name, holds", [("streaming@128", False), ("streaming@128+pin", True)])
def test_a_pinned_system_prompt_is_held_to_the_last_question(engine, name, holds):
    talk = ("user", "so " * 60), ("assistant", "well " * 20)
    text = Text("", (Item("what?", ("x",), 4), Item("why?", ("x",), 4)), (("system", "Be brief."), *talk * 3))
    reader = Reader(engine)
    n_system = reader.n_system(text)
    assert engine.detokenize(reader.prefix(text)[:n_system]).replace("▁", " ").strip() == "[system]Be brief.[user]"
    with engine.open(Setup.parse(name), 4096) as stream:
        reading = retrieval.Reading(stream, reader, text, "blind")
        assert len(reading.ask()) == 2 and stream.memory()["n_evictions"] > 1
        kv = stream._kv
        assert all(np.isin(range(n_system), kv.positions(*head)).all() for head in kv.heads) == holds
    assert reader.n_system(Text("", (), talk)) == 0
