"""Divergence from the full cache: its measures, what is scored, and interrupted runs that go on."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge.bench.measure import divergence, fidelity
from capkv_edge.bench.tasks import corpora
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import Setup


def plan_of(engine, setups, n_docs=2, contexts=(512, 1024), **more):
    documents = corpora.documents(engine, "python-docs", n_docs, contexts[-1])
    return fidelity.Plan(documents, [Setup.parse(name) for name in setups], list(contexts), **more)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 5), n_vocab=st.integers(2, 60), scale=st.floats(0.01, 30))
def test_measures_are_those_of_their_definitions(seed, n, n_vocab, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, n, n_vocab)).astype(np.float32) * scale
    targets = rng.integers(n_vocab, size=n)
    found = divergence.compare(*map(divergence.log_softmax, logits), targets)
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in logits.astype(np.float64))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    at = np.arange(n)
    np.testing.assert_allclose(found["kl"], (p * (np.log(p) - np.log(q))).sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["dloglik"], np.log(q[at, targets]) - np.log(p[at, targets]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["dp"], q[at, targets] - p[at, targets], atol=1e-5)
    assert np.array_equal(found["same_top"], p.argmax(-1) == q.argmax(-1))


def test_the_same_distribution_loses_nothing():
    rows = divergence.log_softmax(np.random.default_rng(1).normal(size=(7, 50)).astype(np.float32))
    found = divergence.figures(divergence.compare(rows, rows, np.arange(7)))
    assert found == dict(n_scored=7, kl_mean=0, kl_median=0, kl_p99=0, dloglik=0, same_top=1, rms_dp=0)


def test_scored_is_the_last_half_after_the_first_eviction(engine):
    setups = ["capkv@100", "streaming@600", "q8_0"]
    plan = plan_of(engine, setups, stride=4)
    windows = {name: [plan.window(Setup.parse(name), n_ctx) for n_ctx in (512, 1024)] for name in setups}
    assert windows["capkv@100"] == [(256, 511), (512, 1023)] == windows["q8_0"]
    assert windows["streaming@600"] == [(768, 768), (768, 1023)]
    rows = list(fidelity.run(engine, plan, Store()))
    assert [(row["setup"], row["n_ctx"]) for row in rows[: len(rows) // 2]] == [
        ("capkv@100", 512),
        ("capkv@100", 1024),
        ("streaming@600", 1024),
        ("q8_0", 512),
        ("q8_0", 1024),
    ]
    for row in rows:
        first, end = plan.window(Setup.parse(row["setup"]), row["n_ctx"])
        assert row["n_scored"] == len(range(first, end, 4)) and row["score_from"] == first


def test_contexts_that_share_a_reading_have_the_figures_of_separate_readings(engine):
    both = list(fidelity.run(engine, plan_of(engine, ["capkv@100"], 1), Store()))
    alone = plan_of(engine, ["capkv@100"], 1)
    alone.documents = [corpora.Document("python-docs", "", alone.documents[0].tokens[:512], "")]
    alone.contexts = [512]
    row = next(fidelity.run(engine, alone, Store()))
    for name in ("kl_mean", "kl_p99", "dloglik", "same_top", "n_scored"):
        # the last batch of the separate reading is shorter, and ggml's flash attention rounds differently then
        assert row[name] == pytest.approx(both[0][name], rel=2e-2, abs=1e-3)


def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same_figures(engine, tmp_path):
    def figures(store):
        return [{k: v for k, v in row.items() if k != "date"} for row in store.rows()]

    setups = ["capkv@100", "random@100", "q4_0"]
    whole = Store(tmp_path / "whole.jsonl")
    n = len(list(fidelity.run(engine, plan_of(engine, setups), whole)))
    part = Store(tmp_path / "part.jsonl")
    work = fidelity.run(engine, plan_of(engine, setups), part)
    for _ in range(3):
        next(work)
    work.close()
    with open(part.path, "a") as file:
        file.write('{"kind": "fidelity", "cor')  # a line that was cut off while it was written
    again = Store(part.path)
    assert len(again.rows()) == 3
    assert len(list(fidelity.run(engine, plan_of(engine, setups), again))) == n - 3
    assert figures(Store(part.path)) == figures(again) == figures(whole)
    assert list(fidelity.run(engine, plan_of(engine, setups), again)) == []


def test_a_row_has_what_is_needed_to_repeat_it(engine):
    row = next(fidelity.run(engine, plan_of(engine, ["capkv@100,novelty=0"], 1), Store()))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["options"] == {"novelty": "0"} and row["model_hash"] == engine.hash and row["pin"].startswith("llama_cpp_python")
    for name in (
        "commit",
        "built",
        "kv_seed",
        "lib",
        "build",
        "device",
        "backends",
        "n_threads",
        "seed",
        "stride",
        "doc_hash",
        "n_batch",
        "version",
    ):
        assert name in row


def test_the_rounding_floor_is_a_row_that_says_how_it_was_read(engine):
    full, small, other = fidelity.run(engine, plan_of(engine, ["full,threads=2", "full,batch=32", "q4_0"], 1, (512,)), Store())
    assert (full["setup"], full["n_threads"], full["n_batch"]) == ("full,threads=2", 2, 512) and engine.n_threads == 1
    assert (small["setup"], small["n_threads"], small["n_batch"]) == ("full,batch=32", 1, 32)
    assert small["options"] == {"batch": "32"} and small["policy"] is None and small["bytes_total"] == small["bytes_full"]
    assert 0 < small["kl_mean"] < other["kl_mean"] / 10


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"kind": "fidelity"}\nhello\n{"kind": "fidelity"}\n')
    with pytest.raises(ValueError, match="line 2: not a row"):
        Store(path)


def test_equal_bytes_are_of_the_whole_text(engine):
    rows = list(fidelity.run(engine, plan_of(engine, ["capkv@=q8_0"], 1, (1024, 2048)), Store()))
    assert [row["n_ctx"] for row in rows] == [2048]
    assert (
        rows[0]["bytes_kv"] <= 2048 * engine.bytes_per_token("q8_0") < rows[0]["bytes_kv"] + 256 * engine.bytes_per_token("f16")
    )


# --- documents ---


def test_documents_do_not_overlap_and_a_corpus_that_is_too_short_says_how_many_it_has(engine, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + i % 26) for i in range(1000)))
    found = corpora.documents(engine, str(path), 3, 300)
    assert [len(document.tokens) for document in found] == [300] * 3
    assert len({document.hash for document in found}) == 3
    with pytest.raises(ValueError, match="docs = 4: .* has no 4 documents of 300 tokens"):
        corpora.documents(engine, str(path), 4, 300)


def test_missing_texts_and_files_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="allowed is a file, a folder, or one of python-docs, python-code, essays"):
        corpora.load("nowhere")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        corpora.load(str(tmp_path / "binary.txt"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no text in it"):
        corpora.load(str(tmp_path / "folder"))


def test_code_is_a_corpus_whose_documents_are_named_by_their_files(engine):
    found = corpora.documents(engine, "python-code", 3, 400)
    assert [one.corpus for one in found] == ["python-code"] * 3 and all(".py+" in one.name for one in found)
    assert any("def " in engine.detokenize(one.tokens).replace("▁", " ") for one in found)
