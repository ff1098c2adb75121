"""What capkv-bench prints, and what it writes into docs/results.md."""

import csv
import io
import json
import re

import bench_rows
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.cli import main
from capkv_edge.bench.intervals import Interval
from capkv_edge.bench.report import output, results, rounds, summary, tables, verdicts

NAMES = ("full", "q4_0", "capkv@512", "snapkv@512", "streaming@512", "capkv@1024", "snapkv@1024", "streaming@1024")


@pytest.fixture(scope="module")
def rows():
    found = bench_rows.fidelity(8, names=NAMES, lengths=(4096,)) + bench_rows.retrieval(8, names=NAMES)
    return found + bench_rows.speed() + bench_rows.longbench()


def lines_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_jsonl_and_json_read_back_as_the_same_rows(rows):
    assert [json.loads(line) for line in output.render(rows, "jsonl").splitlines()] == rows
    assert json.loads(output.render(rows, "json")) == rows


def read_csv(text):
    """The rows of a CSV; all fields are text."""
    return list(csv.DictReader(io.StringIO(text)))


def as_csv_has_it(value):
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, dict, list)) else str(value)


def test_csv_reads_back_as_the_same_values(rows):
    found = read_csv(output.render(rows, "csv"))
    assert len(found) == len(rows)
    for line, row in zip(found, rows):
        for name, text in line.items():
            value = row.get(name)
            assert text == as_csv_has_it(value)
            if isinstance(value, float):
                assert float(text) == value
            if isinstance(value, (dict, list)):
                assert json.loads(text) == value


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.fixed_dictionaries(dict(model=words, answer=words, score=st.floats(allow_nan=False))), min_size=1, max_size=4)
)
def test_whatever_a_text_holds_it_reads_back(found):
    assert [(row["model"], row["answer"], float(row["score"])) for row in read_csv(output.render(found, "csv"))] == [
        (row["model"], row["answer"], row["score"]) for row in found
    ]
    strict = [row | dict(score=None) if abs(row["score"]) == float("inf") else row for row in found]
    assert json.loads(output.render(found, "json")) == strict


def test_json_is_strict_where_a_figure_is_no_number():
    rows = [dict(kind="fidelity", kl_mean=float("nan"), items=[dict(score=float("inf"))])]
    text = output.render(rows, "jsonl")
    assert json.loads(text, parse_constant=pytest.fail) == dict(kind="fidelity", kl_mean=None, items=[dict(score=None)])


@pytest.mark.parametrize("form", output.FORMATS)
def test_no_rows_give_no_rows(form):
    assert output.render([], form).strip() in ("", "[]", "no rows")


def test_an_unknown_format_is_an_error_that_names_the_formats():
    with pytest.raises(ValueError, match="--output = xml: allowed is one of md, csv, json, jsonl"):
        output.render([], "xml")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_markdown_is_aligned_and_no_text_ends_its_field(lines):
    table = tables.Table("", [("name", False), ("figure", True)], [list(line) for line in lines])
    found = output.markdown(table).splitlines()
    assert len(found) == len(lines) + 2
    assert len({len(line) for line in found}) == 1
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in found)


def test_speed_alone_looks_like_llama_bench():
    text = output.render(bench_rows.speed(), "md")
    head = [name.strip() for name in lines_of(text)[0].strip("|").split("|")]
    assert [name for name in head if name in ("model", "backend", "threads", "type_k", "type_v", "test", "t/s")] == [
        *("model", "backend", "threads", "type_k", "type_v", "test", "t/s")
    ]
    assert {"policy", "budget", "KV MiB", "evict %", "ms/evict"} <= set(head)
    assert re.search(r"\| pp512 @ d4096 \| \d+\.\d\d ± \d+\.\d\d \|$", text, re.MULTILINE)
    assert text.endswith("build: a1b2c3d with llama.cpp of 0.0.1\n")


def test_a_test_without_a_figure_stays_in_the_table_and_says_why():
    found = bench_rows.speed(names=("full",), depths=(0,))
    found[0] |= dict(avg_ts=None, stddev_ts=None, samples_ts=[], error="over the time limit of 5 s")
    text = output.render(found, "md")
    assert "failed" in text and "note: speed: full pp512: over the time limit of 5 s" in text


def test_the_model_is_a_column_only_where_models_differ(rows):
    assert "model" not in lines_of(output.render([row for row in rows if row["kind"] == "fidelity"], "md"))[0]
    two = [row | dict(model_hash=mark * 32) for row in rows if row["kind"] == "fidelity" for mark in "ab"]
    text = output.render(two, "md")
    assert "(aaaaaaaa)" in text and "(bbbbbbbb)" in text


def test_an_interval_has_as_many_decimals_as_it_is_sharp():
    assert tables.interval(Interval(0.12345, 0.11345, 0.13345, 9)) == "0.123 [0.113, 0.133]"
    assert tables.interval(Interval(12.3456, 9.9, 14.9, 9)) == "12.3 [9.9, 14.9]"
    assert tables.interval(Interval(-0.00012, -0.00015, -0.00009, 9), sign=True) == "-0.000120 [-0.000150, -0.000090]"
    assert tables.interval(Interval(0.5, 0.5, 0.5, 9)) == "0.500"
    assert tables.interval(Interval(float("nan"), 0, 1, 9)) == "-"


# ---------------------------------------------------------------------------------------------------------------------
# sentences and docs/results.md


def said(policy_effect, names=("capkv@512", "snapkv@512")):
    rows = bench_rows.fidelity(10, names=names, corpora=("novel",), lengths=(4096,))
    for row in rows:
        if row["policy"] == "capkv":
            row["kl_mean"] *= policy_effect
    return " ".join(verdicts.sentences(summary.comparisons(summary.summaries(rows, "fidelity"))))


def test_sentences_follow_from_the_rows_alone():
    assert "of 1 comparison `capkv` wins 1, ties 0 and loses 0." in said(0.5)
    lost = said(2.0)
    assert "`capkv` wins 0, ties 0 and loses 1." in lost
    assert "It loses to `snapkv` on novel, 4096 tokens (`capkv@512`)." in lost


def test_sentences_count_what_the_verdicts_say(rows):
    found = summary.comparisons(summary.summaries(rows, "fidelity"))
    text = " ".join(verdicts.sentences(found))
    for equal in ("budget", "bytes"):
        members = [one.verdict for one in found if one.equal == equal]
        if members:
            n = [members.count(verdict) for verdict in ("wins", "ties", "loses")]
            assert f"{sum(n)} comparisons `capkv` wins {n[0]}, ties {n[1]} and loses {n[2]}." in text


def test_too_few_documents_are_said_to_be_too_few():
    rows = bench_rows.fidelity(3, names=("capkv@512", "snapkv@512"), corpora=("novel",), lengths=(4096,))
    why = "mean KL divergence, without a verdict: 1 with fewer than 6 documents, with which no test of signs reaches 5 %."
    assert verdicts.sentences(summary.comparisons(summary.summaries(rows, "fidelity"))) == [
        f"{how}, {why}" for how in ("At equal budget", "At equal bytes (within 5 %)")
    ]


def test_the_loss_of_the_expected_answer_is_shown_and_judged_where_rows_have_it():
    rows = bench_rows.retrieval(8, names=("full", "capkv@512", "snapkv@512"), tasks=("needle",), lengths=(2048,))
    assert "nll" not in results.results(rows) and "nats per token" not in results.results(rows)
    assert "NLL |" not in output.render(rows, "md")
    for row in rows:
        row["nll"] = {None: 0.1, "capkv": 0.5, "snapkv": 0.9}[row["policy"]] + 0.01 * row["text"]
    text = results.results(rows)
    assert "At equal budget, nats per token of the expected answer over the same texts: of 1 comparison `capkv` wins 1" in text
    assert "The expected answer, nats per token (less is better)" in text and "**0.535**" in text
    shown = output.render(rows, "md")
    assert "NLL |" in shown and "Retrieval, NLL: capkv against" in shown


def test_the_best_policy_of_a_column_is_bold_and_the_full_cache_never_is(rows):
    text = results.results(rows)
    bold = {line.split("|")[1].strip() for line in lines_of(text) if "**" in line}
    assert "`capkv`" in bold and not bold & {"`full`", "`q4_0`", "`streaming`"}


def test_what_is_recalled_or_pinned_is_never_bold():
    rows = bench_rows.retrieval(8, names=("full", "capkv@512", "snapkv@512"), tasks=("needle",))
    for name in ("recall", "pin", "oracle"):
        rows += [{**row, "setup": f"capkv@512+{name}", "score": 1.0} for row in rows if row["setup"] == "capkv@512"]
    bold = [line.split("|")[1].strip() for line in lines_of(results.results(rows)) if "**" in line]
    assert bold and not any("+" in name for name in bold)


def test_policies_with_the_same_figure_as_the_best_are_bold_too():
    rows = [bench_rows.fidelity_row(f"{name}@512", f"d{i}", 0.5) for name in ("capkv", "snapkv") for i in range(6)]
    assert results.results(rows).count("**0.500**") == 2


def test_only_what_is_between_the_marks_is_replaced(rows, tmp_path):
    path = tmp_path / "docs" / "results.md"
    path.parent.mkdir()
    path.write_text(f"# before\n\n{results.BEGIN}\nwas here\n{results.END}\n\nafter\n", encoding="utf-8")
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "quality.png").write_bytes(b"")
    assert results.write(path, rows, plots) == path
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# before\n\n{results.BEGIN}\n") and text.endswith(f"{results.END}\n\nafter\n")
    assert "was here" not in text and "![quality](../plots/quality.png)" in text
    for kind in ("Fidelity to the full cache", "Retrieval", "Long documents", "Speed"):
        assert f"### {kind}" in text
    results.write(path, rows, plots)
    assert path.read_text(encoding="utf-8") == text


def test_report_writes_into_a_document_without_a_model(rows, tmp_path, capsys):
    kept, path = tmp_path / "rows.jsonl", tmp_path / "results.md"
    kept.write_text(output.render(rows, "jsonl"), encoding="utf-8")
    path.write_text(f"before\n{results.BEGIN}\n{results.END}\nafter\n", encoding="utf-8")
    assert main(["report", str(kept), "--document", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and results.results(rows).strip() in text


@pytest.mark.parametrize(
    "text", ["", results.BEGIN, results.END + results.BEGIN, 2 * (results.BEGIN + results.END)]
)
def test_a_document_without_the_two_marks_is_left_as_it_is(rows, tmp_path, text):
    path = tmp_path / "results.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="has to have one line <!-- bench: begin -->"):
        results.write(path, rows)
    assert path.read_text(encoding="utf-8") == text


def test_speed_is_told_as_a_multiple_of_the_full_cache():
    rows = bench_rows.speed(names=("full", "capkv@1024"), depths=(0, 8192))
    at = {(row["setup"], row["n_depth"], row["n_gen"]): row for row in rows}
    for n_gen, rate in ((0, 300.0), (128, 100.0)):
        at["capkv@1024", 8192, n_gen]["avg_ts"] = rate
        at["full", 8192, n_gen]["avg_ts"] = 100.0
    text = results.results(rows)
    assert "- After 8192 tokens `capkv@1024` reads 3.00 and decodes 1.00 times as fast as the full cache." in text


def test_a_headroom_that_tells_no_setups_apart_is_left_out_of_names():
    rows = bench_rows.speed(names=("full", "capkv@1024"), depths=(4096,))
    named = [row | dict(setup="capkv@1024,headroom=512") if row["policy"] else row for row in rows]
    assert rounds.tests(named, "speed") == rows
    assert "`capkv@1024` reads" in results.results(named)
    two = [*named, *(row for row in rows if row["policy"])]
    assert {row["setup"] for row in rounds.tests(two, "speed")} == {"full", "capkv@1024", "capkv@1024,headroom=512"}


def test_rounds_of_one_test_are_one_line():
    rows = [
        row | dict(round=i, avg_ts=10.0 * i, samples_ts=[10.0 * i]) for row in bench_rows.speed(names=("full",)) for i in (1, 2)
    ]
    found = rounds.tests(rows, "speed")
    assert len(found) == len(rows) // 2 and {row["avg_ts"] for row in found} == {15.0}
