"""capkv-bench as its user runs it: the short comparison on the demo model, resuming, formats, errors."""

import csv
import io
import json

import pytest

from capkv_edge.bench import full_run
from capkv_edge.bench.run import rows
from capkv_edge.bench.tasks import registry
from capkv_edge.bench.cli import main


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of `capkv-bench results demo --size short`, and its document."""
    folder = tmp_path_factory.mktemp("short")
    document = folder / "results.md"
    document.write_text("# Results\n\n<!-- bench: begin -->\n<!-- bench: end -->\n\nby hand\n")
    command = ["results", "demo", "--size", "short", "--folder", str(folder), "--document", str(document), "-t", "1"]
    assert main(command) == 0
    return folder, document, command


@pytest.fixture(scope="module")
def found(short):
    return rows.Store(short[0] / "rows.jsonl").rows()


def test_more_budget_loses_less_and_no_budget_least(found):
    loss = {row["setup"]: row["kl_mean"] for row in found if row["kind"] == "fidelity"}
    assert 0 <= loss["q8_0"] < loss["capkv@512"] < loss["capkv@128"]
    same = {row["setup"]: row["same_top"] for row in found if row["kind"] == "fidelity"}
    assert 1 >= same["q8_0"] > same["capkv@512"] > same["capkv@128"] > 0.5


def test_all_parts_are_measured_and_rows_say_how(found):
    assert {row["kind"] for row in found} == set(full_run.PARTS)
    for row in found:
        assert row["model_hash"] and row["pin"] and row["lib"] and row["build"] and row["setup"]
    for row in found:
        if row["kind"] == "retrieval":
            assert len(row["items"]) == 1 and all(0 <= item["score"] <= 1 for item in row["items"])
        if row["kind"] == "speed":
            assert row["avg_ts"] > 0 and row["error"] is None


def test_the_full_size_reads_a_text_on_which_nothing_was_chosen_and_asks_enough_texts():
    full = full_run.SIZES["full"]
    texts = [(corpus, {setup.name for reading in readings for setup in reading.setups}) for corpus, readings in full.readings]
    held_out = set().union(*(names for corpus, names in texts if corpus == "python-code"))
    assert {"capkv@128", "capkv@512", "expected@1024", "capkv@=q4_0", "q8_0", "full,batch=32"} <= held_out
    assert dict(texts)["essays"] > {"capkv@128", "capkv@512", "tova@512", "expected@1024", "q8_0", "full,batch=32"}


@pytest.mark.parametrize("size", full_run.SIZES.values(), ids=full_run.SIZES)
def test_a_context_of_a_corpus_is_measured_on_documents_of_one_length(size):
    contexts = [(corpus, n) for corpus, readings in size.readings for n in {n for one in readings for n in one.contexts}]
    assert len(contexts) == len(set(contexts))  # else some setups would have other documents than those they are compared with


def test_a_further_model_is_measured_on_a_text_on_which_nothing_was_chosen():
    second = full_run.SIZES["second"]
    names = {setup.name for _, readings in second.readings for reading in readings for setup in reading.setups}
    assert {corpus for corpus, _ in second.readings} == {"python-code"}
    assert {"capkv@512", "expected@512", "random@128", "streaming@1024", "full,batch=32"} < names
    assert [asking.n_texts >= 20 for asking in second.tasks] == [True]


def test_the_full_size_asks_enough_texts():
    full = full_run.SIZES["full"]
    n_texts = {name: asking.n_texts for asking in full.tasks for name in asking.names}
    assert n_texts["needles_3"] >= 50 and all(n_texts[name] >= 20 for name in registry.NEEDLES)  # fewer decide little
    assert set(registry.RULER) - {"qa_1", "qa_2"} < set(n_texts) and set(registry.DIALOGUES) < set(n_texts)


def test_the_document_has_the_tables_and_keeps_what_was_written_by_hand(short):
    text = short[1].read_text()
    assert "capkv@128" in text and text.startswith("# Results") and text.endswith("by hand\n")
    assert {"rows.jsonl", "index.html", "quality.png", "speed.png"} <= {path.name for path in short[0].iterdir()}


def test_a_second_run_measures_nothing_again(short, found):
    before = (short[0] / "rows.jsonl").read_bytes()
    assert main(short[2]) == 0
    assert (short[0] / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize("form", ["md", "csv", "json", "jsonl"])
def test_figures_parse_in_every_format(short, found, capsys, form):
    assert main(["report", str(short[0] / "rows.jsonl"), "-o", form]) == 0
    out = capsys.readouterr().out
    kls = [row["kl_mean"] for row in found if row["kind"] == "fidelity"]
    if form == "md":
        assert all(f"{kl:.3g}".rstrip("0") in out for kl in kls)
    elif form == "csv":
        assert [float(row["kl_mean"]) for row in csv.DictReader(io.StringIO(out)) if row["kind"] == "fidelity"] == kls
    else:
        parsed = json.loads(out) if form == "json" else [json.loads(line) for line in out.splitlines()]
        assert [row["kl_mean"] for row in parsed if row["kind"] == "fidelity"] == kls


def test_the_same_command_gives_the_same_figures(tiny_llama, tmp_path):
    command = ["fidelity", str(tiny_llama), "--ctx", "512", "--docs", "1", "--budget", "100", "--policy", "capkv,random,shift"]
    for name in ("a", "b"):
        assert main([*command, "-t", "1", "--rows", str(tmp_path / name), "-o", "jsonl"]) == 0
    first, second = ([{**row, "date": None} for row in rows.Store(tmp_path / name).rows()] for name in ("a", "b"))
    assert first == second and len(first) == 5


@pytest.mark.parametrize(
    "command, says",
    [
        (["fidelity", "nowhere.gguf"], "no such model file: nowhere.gguf"),
        (["fidelity", "demo", "--policy", "capvk"], "--policy = capvk: allowed are all, capkv"),
        (["fidelity", "demo", "--budget", "-3"], "--budget = -3: allowed are numbers"),
        (["fidelity", "demo", "--setup", "q3"], "setup = q3: allowed is full"),
        (["fidelity", "demo", "--text", "nowhere"], "text = nowhere: allowed is"),
        (["fidelity", "demo", "-o", "xml"], "--output = xml: allowed is one of md, csv, json, jsonl"),
        (["fidelity", "demo", "--docs", "0"], "--docs"),
        (["fidelity", "demo", "--docks", "2"], "--docks"),
        (["retrieval", "demo", "--task", "niah"], "task = niah: allowed are"),
        (["retrieval", "demo", "--mode", "seen"], "mode = seen: allowed are"),
        (["retrieval", "demo", "--task", "qa_2"], "task = qa_2: it reads the data set's file: --hotpotqa FILE"),
        (["longbench", "demo", "nowhere"], "data = nowhere: not a folder"),
        (["speed", "demo", "-p", "0", "-n", "0"], "one of them has to be above 0"),
        (["tune", "demo", "--text", "python-docs", "--max-kl", "0"], "max-kl = 0"),
        (["tune", "demo"], "--text"),
        (["report", "nowhere.jsonl"], "no such file of rows: nowhere.jsonl"),
        (["results", "demo", "--size", "tiny"], "--size = tiny: allowed is full, second, short"),
    ],
)
def test_an_error_is_one_line(capsys, command, says):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert says in err and err.startswith("capkv-bench: error: ") and err.count("\n") == 1


def test_tasks_are_listed(capsys):
    assert main(["retrieval", "demo", "--task", "help"]) == 0
    assert "niah_multikey_3" in capsys.readouterr().out


def test_a_group_leaves_out_tasks_whose_files_are_not_given(capsys):
    assert main(["retrieval", "demo", "--task", "ruler", "--mode", "seen"]) == 2
    err = capsys.readouterr().err
    assert "qa_1 is left out: it needs --squad FILE" in err and "qa_2 is left out: it needs --hotpotqa FILE" in err
    assert main(["retrieval", "demo", "--task", "qa_1,ruler"]) == 2
    assert "task = qa_1: it reads the data set's file: --squad FILE" in capsys.readouterr().err


def test_an_interrupted_run_shows_what_it_has(tiny_llama, tmp_path, monkeypatch, capsys):
    from capkv_edge.bench.measure import fidelity

    def cut(*args, **options):
        work = real(*args, **options)
        yield next(work)
        raise KeyboardInterrupt

    real = fidelity.run
    monkeypatch.setattr(fidelity, "run", cut)
    path = tmp_path / "rows.jsonl"
    command = ["fidelity", str(tiny_llama), "--ctx", "512", "--docs", "2", "--budget", "100", "-t", "1", "--rows", str(path)]
    assert main(command) == 130
    out, err = capsys.readouterr()
    assert "interrupted after 1 rows" in err and "the same command goes on" in err and "capkv@100" in out
    assert len(rows.Store(path).rows()) == 1
