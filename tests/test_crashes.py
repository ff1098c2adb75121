"""capkv_edge.crashes: whatever starts a program of ours says which signal ended it and what to do."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts_under_test import load_script

from capkv_edge import crashes
from capkv_edge.bench.measure import speed
from capkv_edge.bench.run.rows import Store

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process ends by no signal there")


@pytest.fixture
def dying(tmp_path):
    """Makes a program of a name that says "last words" on stderr and ends itself by a signal."""

    def make(name, sent="SEGV"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho last words >&2\nkill -{sent} $$\n")
        path.chmod(0o755)
        return path

    return make


def says_all(text, name, sent="SIGSEGV"):
    return all(word in text for word in (f"{name} was ended by {sent} (", "--verbose", "make debug", "gdb ", "report it"))


@pytest.mark.parametrize(
    "command, name",
    [
        (["/a/capkv-chat", "demo"], "capkv-chat"),
        ([sys.executable, "-m", "capkv_edge.bench.measure.speed_worker"], "capkv_edge.bench.measure.speed_worker"),
        ([sys.executable, Path("/a/x.py"), "--dump"], "x.py"),
        (["env", "A=/b/c", "B=", "/usr/bin/python3.11", "-m", "pytest"], "pytest"),
    ],
)
def test_a_program_is_named_by_what_it_runs(command, name):
    assert crashes.describe(command, -signal.SIGSEGV) == f"{name} was ended by SIGSEGV (Segmentation fault)"


def test_what_to_do_goes_with_the_signal():
    assert crashes.explain(["x"], 0) == crashes.explain(["x"], 1) == crashes.describe(["x"], 139) == ""
    assert "memory is short" in crashes.explain(["x"], -signal.SIGKILL)
    assert "another processor" in crashes.explain(["x"], -signal.SIGILL)
    assert crashes.explain(["x"], -signal.SIGTERM) == "x was ended by SIGTERM (Terminated)", "somebody ended it: no fault to report"
    assert crashes.describe(["x"], -99) == "x was ended by signal 99"
    assert crashes.describe(["x"], 0xC0000005) == "x was ended by exception 0xc0000005"


def test_as_a_command_it_runs_a_program_and_passes_its_status_on(dying):
    def run(*command):
        return subprocess.run([sys.executable, crashes.__file__, *command], capture_output=True, text=True)

    done = run(dying("tool"), "an argument")
    assert done.returncode == 139 and done.stdout == ""
    assert done.stderr.startswith("last words\n") and says_all(done.stderr, "tool") and "bin/tool 'an argument'\n" in done.stderr
    assert (run("sh", "-c", "echo out; exit 3").returncode, run("sh", "-c", "echo out").stdout) == (3, "out\n")
    assert run("/nonexistent").stderr == "capkv: /nonexistent: No such file or directory\n"


def test_the_demo_says_so(dying, monkeypatch, capfd):
    demo = load_script("demo.py")

    monkeypatch.setattr(sys, "executable", str(dying("capkv-chat").with_name("python")))
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    assert demo.main() == 139
    assert says_all(capfd.readouterr().err, "capkv-chat")


@pytest.mark.parametrize("sent, more", [("SEGV", crashes.MORE), ("KILL", "out of memory?")])
def test_the_bench_writes_it_into_the_row(sent, more, dying, tiny_llama, monkeypatch):
    real = speed._ask

    def ask(job, *rest):
        if job["what"] == "measure":
            monkeypatch.setattr(speed.sys, "executable", str(dying("python3", sent)))
        return real(job, *rest)

    monkeypatch.setattr(speed, "_ask", ask)
    plan = speed.Plan([speed.Setup()], [0], n_prompt=16, n_gen=0, rounds=1, n_threads=1)
    (row,) = speed.run(tiny_llama, plan, Store())
    assert row["error"].startswith(f"capkv_edge.bench.measure.speed_worker was ended by SIG{sent} (")
    assert row["error"].endswith(f"): last words ({more})") and row["avg_ts"] is None


def test_scripts_that_measure_say_so(dying):
    perplexity = load_script("checks/perplexity.py")

    with pytest.raises(SystemExit) as end:
        perplexity.run([dying("llama-perplexity"), "-c", 512])
    assert "last words" in str(end.value) and says_all(str(end.value), "llama-perplexity")


def test_check_off_says_so(dying, monkeypatch, capfd, tmp_path):
    off = load_script("checks/off.py")

    passed, said = off.run_test(dying("test-llama-archs"), [], tmp_path / "logs" / "log")
    assert not passed and said.startswith("test-llama-archs was ended by SIGSEGV (Segmentation fault), see ")
    assert says_all(capfd.readouterr().err, "test-llama-archs")

    with pytest.raises(SystemExit) as end:
        off.run([str(dying("cmake")), "--build"], "build upstream")
    assert "build upstream failed" in str(end.value) and "cmake was ended by SIGSEGV" in str(end.value)

    monkeypatch.setattr(sys, "executable", str(dying("python3")))
    trees = {"patched": tmp_path, "upstream": tmp_path}
    assert off.compare("defaults", trees, "model", tmp_path / "work") == (False, "exit status 139 with the patched libraries")
    assert says_all(capfd.readouterr().err, "off.py")


def test_the_server_tests_say_so(dying, monkeypatch, tmp_path):
    server_tests = load_script("checks/server_tests/server_tests.py")

    (tmp_path / "tools/server/tests").mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(dying("python3")))
    with pytest.raises(SystemExit) as end:
        server_tests.run(tmp_path, Path("llama-server"), {}, None, 1, [])
    assert "last words" in str(end.value) and says_all(str(end.value), "pytest")
