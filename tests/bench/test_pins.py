"""scripts/checks/pins.py: what it compares, and its table."""

import sys

from scripts_under_test import load_script

pins = load_script("checks/pins.py")


def rows_of(setup, scores, n_turns=20, task="instruction"):
    return [dict(task=task, n_turns=n_turns, setup=setup, text=i, score=score) for i, score in enumerate(scores)]


def test_each_policy_is_measured_with_a_pin_and_without():
    names = [setup.name for setup in pins.setups(["512"])]
    assert names == ["full", "capkv@512", "capkv@512+pin", "streaming@512", "streaming@512+pin"]


def test_the_table_has_means_and_intervals_where_there_are_enough_texts():
    rows = rows_of("full", [1, 1, 0, 1, 1]) + rows_of("capkv@512", [0, 0.5]) + rows_of("full", [1], 200)
    rows += rows_of("full", [0.25], task="instruction_shown") + rows_of("full", [1], task="recall")
    assert pins.table(rows).splitlines() == [
        "| setup | `instruction_shown`, 20 turns | `instruction`, 20 turns | `instruction`, 200 turns |",
        "|---|---:|---:|---:|",
        "| `full` | 25 | 80 (20 to 100) | 100 |",
        "| `capkv@512` |  | 25 |  |",
    ]


def test_a_run_and_its_table_in_a_document(tiny_llama, tmp_path, monkeypatch, capsys):
    rows, document = tmp_path / "rows.jsonl", tmp_path / "results.md"
    small = ["--turns", "2", "--texts", "1", "--share", "1", "--budget", "512", "--threads", "1", "--task", "instruction"]
    monkeypatch.setattr(sys, "argv", ["pins.py", "--model", str(tiny_llama), "--rows", str(rows), *small])
    assert pins.main() == 0 and capsys.readouterr().out.count("2 turns  text   0") == 5
    assert pins.main() == 0 and "text   0" not in capsys.readouterr().out  # what is there is not measured again
    document.write_text(f"before\n{pins.BEGIN}\n{pins.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["pins.py", "--rows", str(rows), "--document", str(document)])
    assert pins.main() == 0
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "| `capkv@512+pin` |" in text
    assert f"Model {tiny_llama.name} on " in text
    one = ["--rows", str(tmp_path / "one.jsonl"), "--setup", "full"]
    monkeypatch.setattr(sys, "argv", ["pins.py", "--model", str(tiny_llama), *small, *one])
    assert pins.main() == 0 and capsys.readouterr().out.count("text   0") == 1
