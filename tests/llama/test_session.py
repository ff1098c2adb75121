"""Sessions: they go on token for token, are written whole or not at all, and are refused with path and reason if they do not fit."""

import hashlib
import os
import random
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving import BUDGET, complete, files_of_at_most, go_on, text

from capkv_edge import atomic
from capkv_edge.llama import session
from capkv_edge.models import fingerprint

POLICIES = ("capkv", "capkv-ref", "streaming")


@pytest.fixture
def saved(llm, tmp_path):
    """A session of 300 tokens, of which most were evicted."""
    llm.eval(text(300))
    path = tmp_path / "talk.session"
    llm.save_session(path)
    return path


def refuses(llm, path, match):
    """Loading raises ValueError, and what was read before is still there."""
    before = llm.input_ids[: llm.n_tokens].tolist(), llm.kv_stats() if llm.kv_config else None
    with pytest.raises(ValueError, match=match) as caught:
        llm.load_session(path)
    assert str(path) in str(caught.value)
    assert (llm.input_ids[: llm.n_tokens].tolist(), llm.kv_stats() if llm.kv_config else None) == before


# --- going on ---


@pytest.mark.parametrize("policy", POLICIES)
def test_a_session_goes_on_token_for_token(make_llama, tiny_llama, tmp_path, held, policy):
    llm = make_llama(tiny_llama, kv_policy=policy, seed=7, **BUDGET)
    llm.eval(text(1000))
    go_on(llm, 10)  # in the middle of a reply
    llm.save_session(tmp_path / "s")
    positions, n_evicted, want = held(llm), llm.kv_stats().n_evicted, go_on(llm, 200)

    llm.load_session(tmp_path / "s")
    assert go_on(llm, 200) == want
    other = make_llama(tiny_llama, kv_policy=policy, **BUDGET)
    other.eval(text(77, seed=3))
    other.load_session(tmp_path / "s")
    assert (other.n_tokens, other._sampling_seed, other.kv_stats().n_evicted) == (1010, 7, n_evicted)
    assert all((a == b).all() for a, b in zip(held(other), positions, strict=True))
    assert go_on(other, 200) == want


@pytest.mark.parametrize("options", [dict(n_ctx=512), dict(n_ctx=512, logits_all=True)])
def test_without_a_budget_too(make_llama, tiny_llama, tmp_path, options):
    llm = make_llama(tiny_llama, **options)
    llm.eval(text(100))
    llm.save_session(tmp_path / "s")
    want = complete(llm, [*text(100), 5])
    other = make_llama(tiny_llama, **options)
    other.load_session(tmp_path / "s")
    assert complete(other, [*text(100), 5]) == want


def test_an_empty_session_and_one_under_another_budget(make_llama, tiny_llama, llm, tmp_path):
    llm.save_session(tmp_path / "empty")
    llm.eval(text(300))
    llm.save_session(tmp_path / "s")
    roomy = make_llama(tiny_llama, kv_budget=128, n_batch=32, n_ctx=1024)
    roomy.load_session(tmp_path / "s")
    roomy.eval(text(300, seed=1))
    assert roomy.kv_stats().n_tokens == 600
    llm.load_session(tmp_path / "empty")
    assert llm.n_tokens == 0 == llm.kv_stats().n_used
    assert complete(llm, text(50)) == complete(make_llama(tiny_llama, **BUDGET), text(50))


# --- what does not fit ---


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(kv_policy="streaming"), "its kv_policy is capkv, here it is streaming"),
        (dict(kv_sink=5), "its kv_sink is 4, here it is 5"),
        (dict(kv_seed=2), "its kv_seed is 1, here it is 2"),
        (
            dict(type_k=1),
            "its K and V are q8_0 and q8_0, here they are f16 and f16: --cache-type-k q8_0 --cache-type-v q8_0 of capkv-chat "
            "(type_k=8, type_v=8 in Python) reads it",
        ),
        (dict(rope_freq_base=5e5), "its rope_freq_base is 0.0, here it is 500000.0"),
        (dict(kv_budget=0, n_ctx=512), "it was saved with a KV budget"),
    ],
)
def test_another_configuration_is_refused(make_llama, tiny_llama, saved, options, reason):
    other = make_llama(tiny_llama, **{**BUDGET, **options})
    other.eval(text(50))
    refuses(other, saved, re.escape(reason))


def test_too_few_cells_are_refused(make_llama, tiny_llama, tmp_path):
    roomy = make_llama(tiny_llama, kv_budget=1024, n_batch=32)
    roomy.eval(text(900))
    roomy.save_session(tmp_path / "s")
    refuses(make_llama(tiny_llama, **BUDGET), tmp_path / "s", "it needs 900 cells, here there are 256")


def test_a_model_that_differs_in_its_weights_alone_is_another_model(make_llama, tiny_llama, saved, tmp_path):
    data = bytearray(Path(tiny_llama).read_bytes())
    data[-1000:] = bytes(1000)
    (tmp_path / "finetune.gguf").write_bytes(data)
    refuses(make_llama(tmp_path / "finetune.gguf", **BUDGET), saved, "it is of another model .tiny-llama.gguf, here .* finetune.gguf")


def test_no_flipped_byte_goes_unseen(llm, saved):
    data = saved.read_bytes()
    rng = random.Random(1)
    for at in [*range(200), *(rng.randrange(len(data)) for _ in range(100)), len(data) - 1]:
        saved.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        refuses(llm, saved, "damaged|no session|version")


def test_no_missing_byte_goes_unseen(llm, saved):
    data = saved.read_bytes()
    for n in [*range(0, 600, 7), *range(600, len(data), 4001), len(data) - 1]:
        saved.write_bytes(data[:n])
        refuses(llm, saved, "cut off|no session|damaged")
    saved.write_bytes(data + b"\0")
    refuses(llm, saved, "damaged")


def test_another_version_is_refused(llm, saved):
    data = bytearray(saved.read_bytes())
    data[8] += 1
    saved.write_bytes(data)
    refuses(llm, saved, "version of its format is 2, here it is 1")


def test_what_the_native_library_refuses_leaves_an_empty_usable_object(make_llama, tiny_llama, llm, saved, monkeypatch):
    want = complete(make_llama(tiny_llama, **BUDGET), text(50))
    monkeypatch.setattr(session, "_check", lambda *_: None)
    other = make_llama(tiny_llama, kv_policy="streaming", **BUDGET)
    with pytest.raises(ValueError, match="cannot load the session .*kv_policy"):
        other.load_session(saved)
    assert other.n_tokens == 0 == other.kv_stats().n_used
    assert len(complete(other, text(50))) == len(want)


# --- the file ---


def test_only_the_owner_may_read_it_at_any_moment(llm, tmp_path, monkeypatch):
    modes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, part: (modes.append(os.fstat(fd).st_mode), write(fd, part))[1])
    os.umask(0)
    llm.eval(text(50))
    llm.save_session(tmp_path / "s")
    monkeypatch.undo()
    assert len(modes) >= 4 and {stat.S_IMODE(mode) for mode in (*modes, os.stat(tmp_path / "s").st_mode)} == {0o600}


def test_a_path_may_be_bytes(llm, tmp_path):
    llm.eval(text(50))
    llm.save_session(bytes(tmp_path / "s"))
    llm.reset()
    llm.load_session(bytes(tmp_path / "s"))
    assert llm.n_tokens == 50 and os.listdir(tmp_path) == ["s"]
    with pytest.raises(ValueError, match=f"^cannot load the session {tmp_path}/t: "):
        (tmp_path / "t").write_bytes(b"x")
        llm.load_session(bytes(tmp_path / "t"))


def test_a_link_stays_a_link(llm, tmp_path):
    llm.eval(text(50))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    llm.save_session(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").stat().st_size > 1000


@pytest.mark.parametrize("name, error", [("no/s", FileNotFoundError), ("", IsADirectoryError), ("/dev/full", OSError)])
def test_where_nothing_can_be_saved_the_error_names_the_path(llm, tmp_path, name, error):
    path = os.path.join(tmp_path, name)
    llm.eval(text(50))
    with pytest.raises(error, match=re.escape(os.path.realpath(path))):
        llm.save_session(path)
    with pytest.raises((OSError, ValueError), match=re.escape(path)):
        llm.load_session(path)
    assert os.listdir(tmp_path) == [] and stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("n_bytes", [0, 10, 5000, 60000])
def test_a_full_disk_leaves_the_older_session_and_nothing_else(llm, saved, n_bytes):
    data, before = saved.read_bytes(), os.listdir(saved.parent)
    llm.eval(text(20, seed=1))
    n_tokens = llm.n_tokens
    with files_of_at_most(n_bytes), pytest.raises(OSError, match="File too large: " + re.escape(repr(str(saved)))):
        llm.save_session(saved)
    assert (saved.read_bytes() == data) and os.listdir(saved.parent) == before
    assert llm.n_tokens == n_tokens == llm.kv_stats().n_tokens
    llm.save_session(saved)
    llm.load_session(saved)
    assert llm.n_tokens == n_tokens


def test_what_a_killed_save_left_is_removed_and_what_another_one_writes_is_not(llm, tmp_path):
    folder = str(tmp_path)
    llm.save_session(tmp_path / "s")
    prefix = ".capkv-" + hashlib.blake2b(b"s", digest_size=8).hexdigest() + "-"
    stale, fd = atomic.create(folder, prefix)
    os.close(fd)
    live, fd = atomic.create(folder, prefix)
    foreign, other = atomic.create(folder, ".capkv-0-")
    os.close(other)
    llm.save_session(tmp_path / "s")
    assert sorted(os.listdir(folder)) == sorted(["s", os.path.basename(live), os.path.basename(foreign)])
    os.close(fd)


KILLED = """
import itertools, sys
from driving import BUDGET, text
from capkv_edge import Llama
llm = Llama(sys.argv[1], verbose=False, n_threads=1, n_threads_batch=1, **BUDGET)
tokens = text(100000)
for i in itertools.count():
    llm.eval(tokens[llm.n_tokens : llm.n_tokens + 1 + i % 40])
    if i == 0:
        print("ready", flush=True)
    llm.save_session(sys.argv[2])
"""


def test_a_kill_at_any_moment_leaves_a_whole_session_or_none(make_llama, tiny_llama, llm, tmp_path):
    path, rng, n_found = tmp_path / "s", random.Random(4), 0
    tokens = text(100000)
    for _ in range(6):
        path.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tiny_llama), str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child:
            try:
                assert child.stdout.readline() == b"ready\n"
                time.sleep(rng.random() * 0.4)
            finally:
                child.kill()
        if not path.exists():
            continue
        n_found += 1
        llm.load_session(path)
        assert llm.input_ids[: llm.n_tokens].tolist() == tokens[: llm.n_tokens]
        fresh = make_llama(tiny_llama, **BUDGET)
        n, i = 0, 0
        while n < llm.n_tokens:  # read in the same pieces
            fresh.eval(tokens[n : n + 1 + i % 40])
            n, i = fresh.n_tokens, i + 1
        assert n == llm.n_tokens
        assert go_on(llm, 30) == go_on(fresh, 30)
        fresh.close()
        llm.save_session(path)
        assert os.listdir(tmp_path) == ["s"]
    assert n_found > 0


def test_split_models_count_whole(tmp_path):


    for i in (1, 2):
        (tmp_path / f"m-0000{i}-of-00002.gguf").write_bytes(bytes([i]) * 1000)
    first = fingerprint(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(bytes(1000))
    assert fingerprint(tmp_path / "m-00001-of-00002.gguf") != first
