"""scripts/checks/eviction_rate.py: what it counts, and what it prints for a tiny model."""

import json
import sys

from scripts_under_test import load_script

rate = load_script("checks/eviction_rate.py")


def test_operations_are_counted_by_the_formulas():
    n, n_kept, m, n_head, n_head_kv, d_k, d_v = 7, 5, 3, 4, 2, 6, 8
    count = 0
    for _ in range(n_head):
        count += sum(2 * d_k for _ in range(n) for _ in range(m))  # logits
        count += sum(2 for _ in range(n) for a in range(d_v) for _ in range(a + 1))  # weighted outer products, one triangle
        count += sum(2 for _ in range(n) for a in range(d_v) for _ in range(a + 1))  # products with a triangular matrix
    for _ in range(n_head_kv):
        count += sum(2 for _ in range(n + n_kept) for a in range(d_v) for _ in range(a + 1))  # capacity, before and after
    assert rate.flops(dict(n_head=n_head, n_head_kv=n_head_kv, d_k=d_k, d_v=d_v), n, n_kept, m) == count


def test_it_measures_both_rates(tiny_llama, monkeypatch, capsys):
    words = f"--model {tiny_llama} --budget 512 --read 2048 --repeat 1 --threads 1"
    monkeypatch.setattr(sys, "argv", ["eviction_rate.py", *words.split()])
    rate.main()
    *table, last = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and "2 layers" in table[0] and table[2].split()[0] == "1"
    (row,) = json.loads(last)["rows"]
    assert row["n_evictions"] > 0 and min(row["matrix"], row["gflops"], row["ms"], row["read_ms"]) > 0


def test_too_short_a_text_is_an_error(tiny_llama, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eviction_rate.py", "--model", str(tiny_llama), "--read", "512", "--threads", "1"])
    try:
        rate.main()
    except SystemExit as err:
        assert "--read 512: the tokens fit into" in str(err)
    else:
        raise AssertionError("nothing was evicted, and it said nothing")
