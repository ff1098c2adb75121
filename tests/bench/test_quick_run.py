"""capkv-bench quick as its user runs it, on a tiny model: page, summary, going on after an interruption, refusals."""

import json
from pathlib import Path

import pytest
import tiny_models
from browser import open_browser

from capkv_edge.bench.cli import main
from capkv_edge.bench.quick import steps, work
from capkv_edge.bench.run.rows import Store

TEXT = "".join(f"{i} bottles stand on the wall, and {i * i % 97} of them are green.\n" for i in range(40))  # 2 documents
CONTRASTS = Path(__file__).parents[1] / "helpers" / "contrasts.js"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "bottles.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def done(tiny_llama, text, tmp_path_factory):
    """(folder, command) of a run that measured two documents and one round of speed, with all that there is to measure."""
    folder = tmp_path_factory.mktemp("quick") / "new"
    command = ["quick", str(tiny_llama), "--text", str(text), "--folder", str(folder), "--minutes", "5", "-t", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "MOST_ROUNDS", 1)
        assert main(command) == 0
    return folder, command


@pytest.fixture
def one_round(monkeypatch):
    monkeypatch.setattr(steps, "MOST_ROUNDS", 1)


@pytest.fixture
def no_speed(monkeypatch):
    monkeypatch.setattr(steps, "MOST_ROUNDS", 0)


def figures(rows: list) -> list:
    return [{name: value for name, value in row.items() if name != "date"} for row in rows if row["kind"] == "fidelity"]


def test_all_caches_are_measured_on_each_document(done):
    rows = Store(done[0] / "rows.jsonl").rows()
    losses = {(row["doc_hash"], row["setup"]): row for row in rows if row["kind"] == "fidelity"}
    names = {setup.name for setup in (*steps.core(1024), *steps.more(1024))}
    assert {setup for _, setup in losses} == names and len(losses) == 2 * len(names)
    assert {row["setup"] for row in rows if row["kind"] == "speed"} == {setup.name for setup in steps.timed(1024)}
    for row in losses.values():
        assert row["n_ctx"] == 1024 and row["score_from"] >= 768 and row["n_scored"] > 100
    for document in {document for document, _ in losses}:
        of = {setup: losses[document, setup]["kl_mean"] for setup in names}
        assert 0 <= of["full,batch=32"] < of["q4_0"] and of["q8_0"] < of["q4_0"]
        assert of["capkv@512:q8_0"] < of["capkv@256:q8_0"] < of["capkv@128:q8_0"]
    for row in rows:
        if row["kind"] == "speed":
            assert row["avg_ts"] > 0 and row["fill_ts"] > 0 and row["n_depth"] == 1024


def test_a_budget_has_the_memory_that_it_has_in_capkv_chat(done, make_llama, tiny_llama):
    row = next(row for row in Store(done[0] / "rows.jsonl").rows("speed") if row["setup"].startswith("capkv@256:q8_0"))
    llm = make_llama(tiny_llama, kv_budget=256, kv_type="q8_0")
    llm.eval(list(range(3, 259)) * 4)
    held = llm.kv_stats()
    assert held.n_evictions > 0
    assert (row["n_cells"], row["bytes_kv"], row["bytes_total"]) == (held.n_cells, held.bytes_kv, held.bytes_total)


def test_a_second_run_measures_nothing_again_and_says_so(done, one_round, capsys):
    before = (done[0] / "rows.jsonl").read_bytes()
    assert main(done[1]) == 0
    out, err = capsys.readouterr()
    assert (done[0] / "rows.jsonl").read_bytes() == before
    assert "goes on where it was stopped: 2 documents, 2 documents in f16, 1 round of speed and 24 rows are in" in err
    assert "all of it is measured; nothing is measured again" in err and "tokens/s in the first batches" not in err
    assert len(out.splitlines()) <= 15 and "capkv-chat" in out and str(done[0] / "index.html") in out


def test_json_is_all_that_is_printed(done, one_round, capsys):
    assert main([*done[1], "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_docs"] == 2 and told["n_ctx"] == 1024 and told["recommended"]["command"].startswith("capkv-chat ")
    assert {one["setup"] for one in told["caches"]} == {"full", *(setup.name for setup in (*steps.core(1024), *steps.more(1024)))}


def test_the_cost_is_said_before_anything_is_measured(tiny_llama, text, tmp_path, no_speed, monkeypatch, capsys):
    def measure(*args):
        err = capsys.readouterr().err
        assert "tokens/s in the first batches, so 5 minutes are enough for 2 documents, 2 documents in f16: about" in err
        raise KeyboardInterrupt

    monkeypatch.setattr(work.fidelity, "run", measure)
    command = ["quick", str(tiny_llama), "--text", str(text), "--folder", str(tmp_path / "q"), "--minutes", "5", "-t", "1"]
    assert main(command) == 130
    assert "interrupted after 0 rows; the same command goes on from there" in capsys.readouterr().err


def test_an_interrupted_run_leaves_a_page_and_goes_on(done, tiny_llama, text, tmp_path, no_speed, monkeypatch, capsys):
    def cut(*args, **options):
        for i, row in enumerate(real(*args, **options)):
            if i == 3:
                raise KeyboardInterrupt
            yield row

    real = work.fidelity.run
    command = ["quick", str(tiny_llama), "--text", str(text), "--folder", str(tmp_path / "q"), "--minutes", "5", "-t", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(work.fidelity, "run", cut)
        assert main(command) == 130
    out, err = capsys.readouterr()
    assert "the same command goes on from there" in err and "It was interrupted: the same command goes on" in out
    words = (tmp_path / "q" / "index.html").read_text(encoding="utf-8")
    assert "No recommendation yet" in words and "0 documents of 1,024 tokens" in words
    assert main(command) == 0
    assert "goes on where it was stopped: nothing and 4 rows" in capsys.readouterr().err
    whole = {(row["doc_hash"], row["setup"]): row for row in figures(Store(done[0] / "rows.jsonl").rows())}
    again = {(row["doc_hash"], row["setup"]): row for row in figures(Store(tmp_path / "q" / "rows.jsonl").rows())}
    assert again == whole


# --- refusals ---


@pytest.mark.parametrize(
    "more, says",
    [
        (["--minutes", "0"], "--minutes = 0: allowed is a number above 0"),
        (["--minutes", "0.001"], "--minutes = 0.001: one document of 1,024 tokens and one round of speed take about"),
        (["--ctx", "512"], "--ctx = 512: allowed is 1024 to 3105"),
        (["--ctx", "9000"], "--ctx = 9000: allowed is 1024 to 3105"),
        (["--max-kl", "0"], "--max-kl = 0.0: allowed is a number of nats above 0"),
        (["-o", "md"], "--output = md: allowed is one of text, json"),
        (["--text", "nowhere"], "text = nowhere: allowed is a file"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(tiny_llama, text, tmp_path, capsys, more, says):
    assert main(["quick", str(tiny_llama), "--text", str(text), "--folder", str(tmp_path / "q"), "-t", "1", *more]) == 2
    err = capsys.readouterr().err
    assert says in err and err.splitlines()[-1].startswith("capkv-bench: error: ") and not (tmp_path / "q").exists()


def test_a_text_that_is_too_short_says_what_is_needed(tiny_llama, tmp_path, capsys):
    (tmp_path / "short.txt").write_text(TEXT[:500])
    assert main(["quick", str(tiny_llama), "--text", str(tmp_path / "short.txt"), "-t", "1"]) == 2
    assert "(502 characters); needed are 1,024 for one document, and 6 times as many for intervals" in capsys.readouterr().err


def test_a_model_that_is_trained_for_less_is_refused(text, tmp_path, capsys):
    tiny_models.write_llama(tmp_path / "small.gguf", n_ctx=512)
    assert main(["quick", str(tmp_path / "small.gguf"), "--text", str(text), "-t", "1"]) == 2
    assert "trained for 512 tokens" in capsys.readouterr().err


def test_a_model_that_cannot_have_a_budget_is_refused(text, tmp_path, capsys):
    tiny_models.write_mamba(tmp_path / "mamba.gguf")
    assert main(["quick", str(tmp_path / "mamba.gguf"), "--text", str(text), "-t", "1"]) == 2
    err = capsys.readouterr().err
    assert "no context for mamba.gguf with streaming@128:q8_0" in err and not (tmp_path / "quick-mamba-bottles").exists()


def test_rows_of_another_run_are_refused(done, one_round, tmp_path, capsys):
    def refused(command) -> str:
        assert main(command) == 2
        return capsys.readouterr().err

    folder, command = done
    assert "rows with seed = 1, and now it is 2: give another --folder" in refused([*command, "--seed", "2"])
    (tmp_path / "other.txt").write_text(TEXT.upper())
    assert "rows of the text bottles.txt, and not of other.txt" in refused([*command, "--text", str(tmp_path / "other.txt")])
    (tmp_path / "bottles.txt").write_text(TEXT.upper())
    assert "rows of a text that has changed since" in refused([*command, "--text", str(tmp_path / "bottles.txt")])
    assert "--ctx = 1100" in refused([*command, "--ctx", "1100"])


# --- the page in a browser ---


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in_light_and_dark_narrow_and_wide(done, scheme, width):
    faults = []
    with open_browser() as browser:
        context = browser.new_context(viewport=dict(width=width, height=800), color_scheme=scheme)
        shown = context.new_page()
        shown.on("pageerror", lambda error: faults.append(str(error)))
        shown.on("request", lambda request: faults.append(request.url) if request.url.startswith(("http", "ws")) else None)
        shown.goto((done[0] / "index.html").as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert shown.evaluate(CONTRASTS.read_text(encoding="utf-8")) == []
        assert shown.locator(".advice code").inner_text().startswith("capkv-chat ")
        rows = shown.locator("table").first.locator("tbody tr")
        assert rows.count() == 10 and rows.nth(0).locator("td").first.inner_text() == "full, f16"
        shown.get_by_role("button", name="% of full").first.click()
        assert rows.nth(0).locator("td").first.inner_text() == "full, q4_0"
        context.close()
    assert faults == []
