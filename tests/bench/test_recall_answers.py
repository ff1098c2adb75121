"""scripts/checks/recall_answers.py: what it measures, what is said of it, and its tables."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from scripts_under_test import load_script

from capkv_edge.bench.report.results import replace_part
from capkv_edge.bench.run.rows import Store

answers, recall = load_script("checks/recall_answers.py"), load_script("checks/recall.py")
DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = ["full", "full+recall", "capkv@512", "capkv@512+recall"]


def rows_of(setup, scores, task="niah_single_2", length=4096, budget=512, device="a CPU"):
    asked = dict(items=[dict(t_recall=0.002, expected=["a"])] * 5, budget=None if setup.startswith("full") else budget, device=device)
    return [dict(task=task, length=length, setup=setup, text=i, score=score, **asked) for i, score in enumerate(scores)]


def test_each_task_has_as_many_texts_as_its_questions_need():
    args = SimpleNamespace(setup=["full"], length=[4096, 32768], strings=100, share=10, task=["vt", "recall", "niah_single_1"])
    plans = [(plan.tasks, plan.n_texts, plan.conditions[0].length) for plan in answers.plans(args)]
    assert plans == [
        *((["recall"], 13, 81), (["vt"], 20, 4096), (["niah_single_1"], 100, 4096)),
        *((["recall"], 13, 655), (["vt"], 20, 32768), (["niah_single_1"], 100, 32768)),
    ]


def test_setups_are_compared_on_the_texts_that_all_have_read():
    rows = rows_of("full", [0, 0.5]) + rows_of("full+recall", [1, 1, 0]) + rows_of("capkv@512+recall", [1, 0.8, 0.2, 0.1])
    rows += [row for name in ("full", "full+recall", "capkv@512+recall") for row in rows_of(name, [1], "recall_reworded", 81)]
    found = answers.scores(rows, 4096)
    assert answers.compare(found, "capkv@512+recall") == {"niah_single_2": (0.9, 1, 0.25)}
    said = answers.verdict(found, "capkv@512+recall")
    assert said.startswith("`capkv@512+recall` answers 90 %, `full+recall` 100 % (90 % of that), `full` 25 %: mean over 1 tasks")
    assert said.endswith("Less than 95 % of `full+recall`: `niah_single_2` (90 against 100). Not above `full`: none")
    assert answers.verdict(found, "streaming@512+recall").startswith("`streaming@512+recall`: not compared")


def test_what_is_said_of_the_questions_with_which_the_same_came_back():
    rows = rows_of("full+recall", [1, 0.5]) + rows_of("capkv@512+recall", [0.5, 0]) + rows_of("capkv@512+recall", [1], "recall_reworded")
    for row, pairs in zip(rows, ([[1, 2]], [[3, 4]], [[1, 2]], [])):
        row["items"] = [dict(score=row["score"], recalled=pairs)]
    said = answers.where_same(rows, "capkv@512+recall")
    assert "for 50 % of the questions" in said and said.endswith("of these it answers 50 %, `full+recall` 100 %")
    assert answers.where_same(rows, "streaming@512+recall") == ""


def test_a_table_for_each_length_says_what_it_is_of():
    rows = rows_of("full", [0.5]) + rows_of("capkv@512", [0.25] * 5) + rows_of("capkv@512", [1], length=32768, device="NVIDIA H200")
    first, second = answers.document_part(rows, [4096, 32768, 131072]).split("\n32,768 tokens, ")
    assert first.splitlines()[:5] == [
        "4,096 tokens, 5 to 25 strings asked for a cell, on a CPU:",
        "",
        "| task | `full` | `capkv@512` |",
        "|---|---:|---:|",
        "| `niah_single_2` | 50 | 25 (25 to 25) |",
    ]
    assert "took 2.0 ms in the median, 2.0 ms or less in 95 %" in first and second.startswith("5 strings asked for a cell, on NVIDIA H200:")


def test_a_run_and_its_tables_in_a_document(tiny_llama, tmp_path, monkeypatch, capsys):
    rows, document = tmp_path / "rows.jsonl", tmp_path / "recall.md"
    words = ["recall_answers.py", "--model", str(tiny_llama), "--rows", str(rows), "--length", "1500", "--threads", "1"]
    small = ["--task", "niah_single_1", "--strings", "1", "--share", "1", "--setup", *NAMES]
    monkeypatch.setattr(sys, "argv", [*words, *small])
    assert answers.main() == 0 and capsys.readouterr().out.count("text   0") == 4
    assert answers.main() == 0 and "text   0" not in capsys.readouterr().out  # what is there is not measured again
    document.write_text(f"before\n{answers.BEGIN}\nold\n{answers.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", [*words, "--document", str(document)])
    assert answers.main() == 0
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "| task | `full` | `full+recall` | `capkv@512` | `capkv@512+recall` |" in text


def test_the_document_has_what_its_rows_give():
    text, folder = (DOCS / "recall.md").read_text(encoding="utf-8"), DOCS / "results" / "recall"
    rows = Store(folder / "answers.jsonl").rows("retrieval")
    assert rows and text == replace_part(text, answers.document_part(rows, answers.LENGTHS), answers.BEGIN, answers.END)
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    for name, made in recall.tables(rows).items():
        assert text == replace_part(text, made, f"<!-- {name}: begin -->", f"<!-- {name}: end -->")
