"""scripts/checks/endless.py: the text, the NLL, what is said of it, and a run that was stopped and goes on."""

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scripts_under_test import load_script

endless = load_script("checks/endless.py")


def test_each_tenth_has_the_same_documents_and_none_comes_again_soon(engine):
    text = endless.make_text(engine, ["python-docs"], 200_000, seed=1)
    assert text.dtype == np.int32 and len(text) == 200_000
    tenths = [[doc.tobytes() for doc in tenth] for tenth in text.reshape(10, 10, 2000)]
    assert all(set(tenth) == set(tenths[0]) and len(set(tenth)) == 10 for tenth in tenths)
    assert len({tuple(tenth) for tenth in tenths}) > 5
    places = {}
    for i, doc in enumerate(doc for tenth in tenths for doc in tenth):
        places.setdefault(doc, []).append(i)
    assert min(np.diff(found).min() for found in places.values()) > 5


def test_nll_is_the_log_of_the_softmax():
    rows = np.random.default_rng(0).normal(0, 20, (7, 50)).astype(np.float32)
    tokens = np.arange(7) * 3
    exact = rows.astype(np.float64)
    want = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(7), tokens]
    assert endless.nll(rows, tokens) == pytest.approx(want, rel=1e-5)
    with ThreadPoolExecutor(2) as pool:
        assert np.array_equal(endless.nll(rows, tokens, pool.map), endless.nll(rows, tokens))


def rows_of(means: list) -> list:
    return [dict(nll=mean, n_tokens=1000 * (i + 1), resident=10**6 + 4000 * i) for i, mean in enumerate(np.repeat(means, 10))]


def test_what_is_flat():
    flat, broken = [4.0, 3.2, 3.1, 3.2, 3.25, 3.2, 3.2, 3.2, 3.2, 3.29], [4.0, 3.2] + 7 * [3.2] + [3.3]
    assert endless.departure(flat) == pytest.approx(0.03125) and endless.departure(broken) == pytest.approx(0.03125)
    assert endless.verdict("a", rows_of([4.0, 3.2] + 8 * [3.29])).startswith("a: flat: from the third tenth on the mean NLL is within 2.8%")
    said = endless.verdict("a", rows_of(broken))
    assert said.startswith("a: not flat: ") and "grew by 4.0 bytes a token" in said
    assert endless.verdict("a", rows_of(broken)[:35]) == "a: 3 of 10 tenths are read"
    assert math.isnan(endless.departure([1, 2]))


def test_a_run_that_was_stopped_goes_on_to_the_same_figures(engine, tmp_path, monkeypatch, capsys):
    def run(name, *more):
        words = ["endless.py", "--model", engine.path, "--threads", 1, "--tokens", 8000, "--budget", 128, "--text", "python-docs"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in (*words, "--rows", tmp_path / name, *more)])
        status = endless.main()
        return status, [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    def figures(rows):
        return [(row["setup"], row["part"], row["n_tokens"], row["nll"], row["n_evictions"]) for row in rows]

    status, rows = run("whole.jsonl")
    said = capsys.readouterr().out
    assert [row["setup"] for row in rows] == ["capkv@128"] * 100 + ["shift@128"] * 100
    assert rows[99]["n_tokens"] == 8000 and rows[99]["n_evictions"] > 10
    assert "| tokens up to | `capkv@128` | `shift@128` |" in said and "| 8,000 | " in said
    assert json.loads(said.splitlines()[-1])["flat"]["capkv@128"] == (status == 0)

    read = endless.Run._read
    for end in (37, 61):
        monkeypatch.setattr(endless.Run, "_read", lambda self, stream, part, end=end: read(self, stream, part if part < end else 1 / 0))
        with pytest.raises(ZeroDivisionError):
            run("parts.jsonl")
    monkeypatch.setattr(endless.Run, "_read", read)
    assert figures(run("parts.jsonl")[1]) == figures(rows)
    assert not list(tmp_path.glob("*.state"))

    document = tmp_path / "results.md"
    document.write_text(f"before\n{endless.BEGIN}\nold\n{endless.END}\nafter\n")
    assert run("whole.jsonl", "--document", document)[0] == 0
    written = document.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert f"on {rows[0]['device']}, 8,000 tokens of python-docs" in written and written.count("| `shift@128` |") == 1
