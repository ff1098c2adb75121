"""llama_state_* of a context with a budget, through llama.cpp's own C API: whole or one sequence, in memory or as a file."""

import pytest
import saved_state
from bare_context import N_SEQ
from driving import files_of_at_most, text

from capkv_edge import _lib
from capkv_edge.config import options
from capkv_edge.llama import session

POLICIES = ("capkv", "capkv-ref", "streaming")


def put_and_get(form, one, other, path, src=None, dst=None):
    if form == "memory":
        data = one.get(src)
        return lambda: other.set(data, dst) == len(data)
    assert one.save(path, src)
    return lambda: other.load(path, dst)


@pytest.mark.parametrize("form", ["memory", "file"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_whole_state_goes_on_token_for_token(make_context, tmp_path, policy, form):
    """Saved in the middle of a reply, after many evictions, with sequences of all lengths beside it; bit for bit."""
    one, fresh = make_context(policy), make_context(policy)
    for seq, n in enumerate((900, 0, 40, 300)):
        one.read(text(n, seed=seq), seq)
    one.go_on(7)
    put = {other: put_and_get(form, one, other, tmp_path / f"{i}") for i, other in enumerate((one, fresh))}
    want = {seq: (one.positions(seq), one.go_on(100, seq), one.positions(seq)) for seq in (0, 2, 3)}
    for other in (one, fresh):
        other.read(text(50, seed=9), 1)
        assert put[other]()
        assert other.end(1) == 0
        for seq, (before, out, after) in want.items():
            assert other.positions(seq) == before
            assert other.go_on(100, seq) == out
            assert other.positions(seq) == after


@pytest.mark.parametrize("form", ["memory", "file"])
@pytest.mark.parametrize("policy", POLICIES)
def test_one_sequence_moves_to_another_and_its_neighbours_stay_as_they_are(make_context, tmp_path, policy, form):
    one, fresh = make_context(policy), make_context(policy)
    for seq in range(N_SEQ):
        one.read(text(400, seed=seq), seq)
    one.go_on(7)
    put = [put_and_get(form, one, other, tmp_path / f"{i}", 0, 2) for i, other in enumerate((one, fresh))]
    neighbours = {seq: (one.get(seq), one.positions(seq)) for seq in (0, 1, 3)}
    assert put[0]() and put[1]()
    for seq, (data, positions) in neighbours.items():
        assert one.get(seq) == data and one.positions(seq) == positions
    assert fresh.end(0) == fresh.end(1) == fresh.end(3) == 0
    positions = one.positions(0)
    want = one.go_on(100, 0)
    for other in (one, fresh):
        assert other.positions(2) == positions
        assert other.go_on(100, 2) == want
        assert other.positions(2) == one.positions(0)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_state_of_an_empty_sequence_empties_the_one_that_takes_it(make_context, policy):
    one, fresh = make_context(policy), make_context(policy)
    empty = one.get(0)
    one.read(text(400))
    one.read(text(100, seed=1), 1)
    assert one.set(empty, 0) == len(empty)
    assert one.end(0) == 0 and one.end(1) == 100 and one.positions(0) == [[]] * 4
    for other in (one, fresh):
        other.read(text(300, seed=2))
    assert one.positions(0) == fresh.positions(0)


@pytest.mark.parametrize("seq", [None, 0])
def test_a_refused_state_leaves_the_context_as_it_was(make_context, seq):
    one = make_context()
    for i in range(N_SEQ):
        one.read(text(300, seed=i), i)
    before = one.get()
    data = one.get(seq)
    foreign = make_context("streaming").get(seq)
    at = data.index(b"capkv")
    assert one.set(data[: at + 60], seq) == 0
    assert one.set(data[: at + 100] + bytes([data[at + 100] ^ 1]) + data[at + 101 :], seq) == 0
    assert one.get() == before
    assert one.set(foreign, seq) == 0 and "kv_policy" in _lib.last_error()
    for i in range(N_SEQ):
        assert one.end(i) == (0 if seq in (None, i) else 300)
        one.read(text(300, seed=i), i)


def test_queries_observed_in_another_type_are_refused_by_its_name(make_context):
    one = make_context("capkv")
    one.read(text(300))
    data, want = one.get(0), one.positions(0)
    assert one.set(saved_state.with_query_type(data, 8), 0) == len(data)  # q8_0, as it is
    for kind, name in ((2, "q4_0"), (1, "f16"), (1 << 20, "of no known type")):
        assert one.set(saved_state.with_query_type(data, kind), 0) == 0
        assert f"its observed queries are {name}, here they are q8_0" in _lib.last_error()
    assert one.set(data, 0) == len(data) and one.positions(0) == want


@pytest.mark.parametrize("seq", [None, 0])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_of_the_versions_before_is_read(make_context, policy, seq):
    one = make_context(policy)
    one.read(text(300))
    data = one.get(seq)
    n_added = 16 * (N_SEQ if seq is None else 1) + 8  # by version 5
    olds = ((saved_state.as_frame_2(data), n_added), (saved_state.as_version_4(data), 0), (saved_state.as_version_3(data), 80 - 40 + 4))
    for old, n_more in olds:
        fresh = make_context(policy)
        fresh.kv.pin(900, 905)
        assert len(old) == len(data) - n_added + n_more
        assert fresh.set(old, seq) == len(old)
        assert fresh.get(seq) == data and fresh.kv.pins() == []
        assert fresh.positions() == one.positions()
    assert fresh.go_on(100) == one.go_on(100)
    assert fresh.set(saved_state.as_version_3(data, with_end=False), seq) == 0
    assert "it breaks off before its end" in _lib.last_error()


@pytest.mark.parametrize("version", [0, 2, 6])
def test_a_state_of_any_other_version_is_refused(make_context, version):
    one = make_context()
    one.read(text(300))
    assert one.set(saved_state.with_version(one.get(0), version), 0) == 0
    assert f"the version of its format is {version}, here it is 5" in _lib.last_error()


def test_what_may_not_differ_is_what_a_session_checks_first(make_context):
    """A session says so before it touches what is there; the native state refuses it in any case."""
    one, refused = make_context(), set()
    one.read(text(300))
    data = one.get(0)
    other = dict(policy="keydiff", budget=96, recent=16, headroom=64, reindex="always")
    for option in options().values():
        if option.name == "type":  # the cells say what they are themselves
            continue
        value = other.get(option.name) or f"{float(option.default) + 1:g}"
        if make_context(**{option.name: value}).set(data, 0) == 0:
            assert f"its kv_{option.name} is " in _lib.last_error()
            refused.add(option.name)
    assert refused == set(session._SAME_KV)


@pytest.mark.parametrize("seq", [None, 0])
def test_a_state_cut_off_among_its_tensors_leaves_the_sequence_empty(make_context, tmp_path, seq):
    one, path = make_context(), tmp_path / "s"
    one.read(text(300))
    one.read(text(200), 1)
    assert one.save(path, seq)
    whole = path.read_bytes()
    for n in (len(whole) - 1, len(whole) - 9, len(whole) * 2 // 3):
        path.write_bytes(whole[:n])
        assert not one.load(path, seq)
        assert one.end(0) == 0 and one.end(1) == (0 if seq is None else 200)
        one.read(text(300))
    assert len(one.go_on(20)[0]) == 20


def test_a_missing_last_byte_is_seen_where_it_is_zero(make_context, tmp_path):
    one, path = make_context(), tmp_path / "s"
    one.read(text(300))
    assert one.save(path, 0)
    whole = saved_state.ending_with_a_zero(path.read_bytes())
    path.write_bytes(whole)
    assert one.load(path, 0) and one.end(0) == 300
    path.write_bytes(whole[:-1])
    assert not one.load(path, 0) and one.end(0) == 0


@pytest.mark.parametrize("seq", [None, 0])
@pytest.mark.parametrize("n_bytes", [0, 5000, 20000])
def test_a_full_disk_is_an_error_and_the_context_goes_on(make_context, tmp_path, seq, n_bytes):
    one = make_context()
    one.read(text(300))
    before = one.get()
    with files_of_at_most(n_bytes):
        assert not one.save(tmp_path / "s", seq)
    assert not one.save("/dev/full", seq)
    assert not one.save(tmp_path / "no" / "s", seq)
    assert one.get() == before
    assert one.save(tmp_path / "s", seq) and one.load(tmp_path / "s", seq)


@pytest.mark.parametrize("seq", [None, 0])
def test_what_a_full_disk_cut_off_at_the_very_end_is_refused(make_context, tmp_path, seq):
    """llama.cpp does not see the last write fail, which happens when the file is closed."""
    one, path = make_context(), tmp_path / "s"
    one.read(text(300))
    assert one.save(path, seq)
    n_bytes = path.stat().st_size - 4
    with files_of_at_most(n_bytes):
        one.save(path, seq)
    assert path.stat().st_size == n_bytes
    assert not one.load(path, seq)
    one.read(text(300))
