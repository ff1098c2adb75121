"""The file of rows: what counts as measured, and which row of a measurement is shown."""

from pathlib import Path

import bench_rows
import pytest

from capkv_edge.bench.cli import main
from capkv_edge.bench.kinds import KINDS
from capkv_edge.bench.run import provenance
from capkv_edge.bench.run.rows import Store, key_of, newest
from capkv_edge.bench.run.setups import Setup

ROW = dict(bench_rows.fidelity_row("capkv@512", "d1", 0.5), lib="a1", kv_seed=1)


@pytest.mark.parametrize(
    "change", [dict(lib="b2"), dict(backends=["BLAS", "CPU"]), dict(device="another"), dict(n_threads=9), dict(n_gpu_layers=3)]
)
def test_what_was_measured_with_something_else_is_measured_anew_unless_old_rows_are_kept(tmp_path, change):
    path = tmp_path / "rows.jsonl"
    Store(path).add(ROW)
    assert set(change) <= set(provenance.ORIGIN)
    assert Store(path).done(ROW) and not Store(path).done({**ROW, **change})
    assert Store(path, keeps_old=True).done({**ROW, **change}) and not Store(path, keeps_old=True).done({**ROW, "doc": "d2"})


def test_the_newest_row_of_a_measurement_is_shown_and_says_whether_it_is_done():
    store, new = Store(), {**ROW, "lib": "b2", "kl_mean": 0.25}
    for row in (ROW, {**ROW, "doc": "d2"}, new):
        store.add(row)
    assert store.rows() == [{**ROW, "doc": "d2"}, new]
    assert store.done(new) and not store.done(ROW), "the row that is shown is of another build"


def test_seeds_of_the_sample_are_measurements_of_their_own():
    for kind in ("fidelity", "retrieval", "longbench"):
        assert "kv_seed" in KINDS[kind].key
    store = Store()
    store.add(ROW)
    assert store.done(ROW) and not store.done({**ROW, "kv_seed": 2})


def test_rows_from_before_the_seed_was_a_field_are_of_the_seed_that_they_used():
    old = {name: value for name, value in ROW.items() if name != "kv_seed"}
    assert key_of(old) == key_of(ROW) != key_of({**ROW, "kv_seed": 2})
    assert key_of({**old, "options": {"seed": "7"}}) == key_of({**ROW, "options": {"seed": "7"}, "kv_seed": 7})
    plain = bench_rows.fidelity_row("streaming@512", "d1", 0.5)
    assert key_of(plain) == key_of({**plain, "kv_seed": Setup.parse("streaming@512").kv_seed})


def test_all_rows_of_the_results_load_and_are_shown():
    path = Path(__file__).resolve().parents[2] / "docs" / "results" / "rows.jsonl"
    assert len(Store(path).rows()) == len(path.read_text(encoding="utf-8").splitlines())


def test_files_of_a_report_that_measured_the_same_give_the_later_rows(tmp_path, capsys):
    for name, kl in (("a", 0.5), ("b", 0.25)):
        Store(tmp_path / name).add({**ROW, "lib": name, "kl_mean": kl})
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "-o", "csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and ",0.25," in out and "1 rows are left out" in err
    assert newest([ROW, ROW]) == [ROW]


def test_a_row_says_what_the_build_wrote_beside_the_libraries(monkeypatch, engine):
    monkeypatch.setattr(provenance._lib, "build_stamp", lambda: dict(commit="abc-dirty", version="9", date="2024-01-01T00:00:00Z"))
    found = provenance.engine_fields(engine)
    assert (found["commit"], found["built"]) == ("abc-dirty", "2024-01-01T00:00:00Z") and found["version"] not in (None, "0+unknown")


def test_the_digest_is_of_the_libraries_that_compute(tmp_path, monkeypatch):
    def digest():
        provenance._build.cache_clear()
        return provenance._build()[0]

    for name in ("libllama.so", "libggml-cpu.so", "llama-server", "libllama-server-impl.so", "capkv-build.json"):
        (tmp_path / name).write_bytes(b"1")
    monkeypatch.setattr(provenance, "library_path", lambda: tmp_path / "libllama.so")
    first = digest()
    for name in ("llama-server", "libllama-server-impl.so", "capkv-build.json"):
        (tmp_path / name).write_bytes(b"2")
    assert digest() == first
    (tmp_path / "libggml-cpu.so").write_bytes(b"2")
    assert digest() != first
    monkeypatch.undo()
    provenance._build.cache_clear()
