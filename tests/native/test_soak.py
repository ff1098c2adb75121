"""A short soak finds nothing, and finds whatever is broken."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soak_steps
import tiny_models
from scripts_under_test import load_script
from soak_checks import Broken
from soak_context import Context

import capkv_edge

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "checks" / "soak.py"


def run(*args):
    """scripts/checks/soak.py in a process of its own: exit status, errors, the last line as JSON."""
    path = os.pathsep.join([str(Path(capkv_edge.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("policy, sequences", [("capkv", 1), ("capkv", 3), ("expected", 2)])
def test_ten_thousand_tokens_with_everything_else_that_can_be_done(policy, sequences):
    got = run("--tokens", 10_000, "--policy", policy, "--sequences", sequences, "--max-growth", 0.2)
    assert got["n_tokens"] >= 10_000 and got["n_evictions"] >= 10 and got["n_checks"] > 10_000
    names = {name for name, (_, of) in soak_steps.STEPS.items() if of == 0 or (of == 1) == (sequences == 1)}
    assert set(got["steps"]) == names


@pytest.mark.parametrize("more", [("--trained", 384), ("--trained", 384, "--sequences", 3), ("--reindex", "always")], ids=str)
def test_entries_get_new_rope_positions_again_and_again(more):
    sizes = ("--budget", 96, "--batch", 64, "--ctx", 4096)
    got = run("--tokens", 10_000, *sizes, "--max-growth", 0.2, *more)
    assert got["n_reindexes"] >= 15 and got["n_checks"] > 10_000


@pytest.fixture
def soak(tiny_llama, tmp_path):
    """Begins a soak of one policy, of two sequences unless told."""
    made = []

    def make(sequences=2, seed=1):
        def context():
            return Context(tiny_llama, policy="capkv", budget=96, batch=64, ctx=4096, sequences=sequences, threads=1)

        made.append(soak_steps.Soak(context, tmp_path, seed))
        return made[-1]

    yield make
    for one in made:
        one.close()


def go(soak, n_tokens=4000):
    while soak.n_tokens < n_tokens:
        soak.step()


@pytest.fixture
def short_soak(tmp_path):
    """A soak of one sequence on a model that is trained to 256 tokens."""
    tiny_models.write_llama(tmp_path / "short.gguf", n_ctx=256)

    def context():
        return Context(tmp_path / "short.gguf", policy="capkv", budget=96, batch=64, ctx=4096, sequences=1, threads=1)

    one = soak_steps.Soak(context, tmp_path, seed=1)
    yield one
    one.close()


def remove(one, p0, p1):
    one.that(one.context.rm(0, p0, p1), "a removal within the tail is done")
    one.seqs[0].cut(p0, p1)
    one.check()


def test_positions_taken_out_of_the_tail_count_for_the_trained_length(short_soak):
    seq = short_soak.seqs[0]
    for _ in range(6):
        short_soak.read_ids(0, short_soak.draw(64))
        remove(short_soak, seq.end - 60, seq.end - 1)
    assert seq.n_evictions == 0 and seq.ropes.max() == 6 * 64 - 1 and seq.n_removed == 6 * 59


def test_a_tail_without_its_first_tokens_is_numbered_anew(short_soak):
    seq = short_soak.seqs[0]
    short_soak.read_ids(0, short_soak.draw(200))
    seq.compress(72)
    assert short_soak.context.compress(0, 72) > 0
    short_soak.check()
    for _ in range(10):
        tail = seq.held[0, -seq.n_tail :]
        remove(short_soak, int(tail[0]), int(tail[20]))
        short_soak.read_ids(0, short_soak.draw(20))
    assert seq.n_evictions == 1 and seq.n_reindexes >= 1 and seq.ropes.max() < 256


def test_a_seed_does_the_same_again(soak):
    one, other = soak(seed=7), soak(seed=7)
    go(one), go(other)
    assert one.counts == other.counts and one.checker.n_checks == other.checker.n_checks
    assert all(np.array_equal(a.held, b.held) for a, b in zip(one.seqs, other.seqs))


# --- what is broken on purpose: a method of Context that tells something else of a sequence with evictions ---


def positions(change):
    def doctored(context, seq, *, real=Context.positions):
        rows = [row.copy() for row in real(context, seq)]
        if context.stats(seq).n_evictions > 1:
            change(rows)
        return rows

    return doctored


def drop_a_sink(rows):
    rows[1][3] += 1


def drop_one_of_the_tail(rows):
    rows[2] = np.delete(np.insert(rows[2], 4, 4), -20)


def raise_the_dead(rows):
    free = np.setdiff1d(np.arange(4, rows[0][-50]), rows[0])
    rows[0] = np.sort(np.append(np.delete(rows[0], 5), free[:1]))


def lose_one(rows):
    rows[3] = np.delete(rows[3], 6)


def lose_one_in_all_heads(rows):
    rows[:] = [np.delete(row, 6) for row in rows]


def swap(rows):
    rows[0][[5, 6]] = rows[0][[6, 5]]


def figures(**change):
    def doctored(context, seq, *, real=Context.stats):
        now = real(context, seq)
        doctored.n += 1
        return dataclasses.replace(now, **{k: f(getattr(now, k)) for k, f in change.items()}) if now.n_evictions else now

    doctored.n = 0  # times that it was asked
    return doctored


def ends(d_first, d_last):
    def doctored(context, seq, *, real=Context.ends):
        first, last = real(context, seq)
        return (first + d_first, last + d_last) if first > 0 else (first, last)

    return doctored


def some_logits_are_nan(context, i, *, real=Context.logits):
    logits = real(context, i).copy()
    logits[2] = np.nan if i % 7 == 3 else logits[2]
    return logits


def logits_of_another_token(context, i, *, real=Context.logits):
    return np.roll(real(context, i), context.stats(0).n_tokens % 2 and context.batch.pos[0] % 3)


def rm_does_not_refuse(context, seq, p0, p1, *, real=Context.rm):
    return real(context, seq, p0, p1) or True


def rm_does_nothing(context, seq, p0, p1, *, real=Context.rm):
    return real(context, seq, p0, p1) if p0 < context.stats(max(seq, 0)).pos_tail else True


def cp_copies_another(context, source, target, *, real=Context.cp):
    if context.stats(source).n_used:
        context.rm(target, -1, -1)


def pin_one_less(context, seq, start, stop, *, real=Context.pin):
    real(context, seq, start, stop)
    context.unpin(seq, stop - 1, stop)


def pin_and_hold_nothing(context, seq, start, stop, *, real=Context.pin):
    real(context, seq, start, stop)
    told = {i: context.pins(i) for i in range(context.n_seq)}
    context.kv.unpin(seq_id=seq)
    context.pins = told.get


def load_does_nothing(context, data, seq, *, real=Context.load):
    return True


FAULTS = [
    ("positions", positions(drop_a_sink), "sinks"),
    ("positions", positions(drop_one_of_the_tail), "keeps the last tokens|nothing is lost or found|all new tokens"),
    ("positions", positions(raise_the_dead), "was there before"),
    ("positions", positions(lose_one), "as many tokens as cells"),
    ("positions", positions(lose_one_in_all_heads), "as many tokens as cells"),
    ("positions", positions(swap), "ascending|nothing is lost or found"),
    ("stats", figures(capacity=lambda x: 1.001), "capacity is above 0 and at most 1"),
    ("stats", figures(capacity_layers=lambda x: (0.0, *x[1:])), "capacity is above 0 and at most 1"),
    ("stats", figures(capacity=lambda x: float("nan")), "figures are finite"),
    ("stats", figures(n_cells=lambda x: x - 1), "no more cells"),
    ("stats", figures(n_tokens=lambda x: x + 1), "tokens are those held"),
    ("stats", figures(n_evicted=lambda x: x + 1, n_tokens=lambda x: x + 1), "evicted tokens are counted"),
    ("stats", figures(n_evictions=lambda x: x + 1), "evictions are counted"),
    ("stats", figures(pos_tail=lambda x: x - 1), "the tail begins where"),
    ("stats", figures(bytes_obs=lambda x: x + 4), "bytes_obs is constant"),
    ("stats", figures(bytes_work=lambda x: x * 2 ** (FAULTS[15][1].n % 2)), "bytes_work is about constant"),
    ("stats", figures(bytes_pos=lambda x: x + 4), "the position table"),
    ("stats", figures(t_evict_us=lambda x: x + FAULTS[17][1].n), "only evictions take time"),
    ("stats", figures(capacity=lambda x: x / (1 + FAULTS[18][1].n)), "capacity changes with evictions alone"),
    ("ends", ends(-1, 0), "first position"),
    ("ends", ends(0, 1), "last position"),
    ("logits", some_logits_are_nan, "logits are finite"),
    ("logits", logits_of_another_token, "exact|goes on as"),
    ("rm", rm_does_not_refuse, "the middle is refused"),
    ("rm", rm_does_nothing, "nothing is lost or found"),
    ("cp", cp_copies_another, "nothing is lost or found"),
    ("load", load_does_nothing, "nothing is lost or found"),
    ("pin", pin_one_less, "the pins are those that were set"),
    ("pin", pin_and_hold_nothing, "every head holds what is pinned|the pins are those"),
]


@pytest.mark.parametrize("i", range(len(FAULTS)), ids=[f"{name}: {match}" for name, _, match in FAULTS])
def test_what_is_broken_is_found(soak, monkeypatch, i):
    name, doctored, match = FAULTS[i]
    monkeypatch.setattr(Context, name, doctored)
    one = soak()
    with pytest.raises(Broken, match=match):
        go(one, 20_000)


def test_the_last_operations_and_the_seed_are_named(monkeypatch, capsys):
    monkeypatch.setattr(Context, "stats", figures(n_evictions=lambda x: x + 1))
    assert load_script("checks/soak.py").main(["--tokens", "5000", "--seed", "12", "--batch", "64", "--budget", "96"]) == 1
    said = r"broken: policy capkv, seed 12, after [0-9,]+ tokens, the last steps being (.+): evictions"
    found = re.search(said, capsys.readouterr().err)
    assert found and len(found[1].split(", ")) == 6
