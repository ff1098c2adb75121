"""How many threads are taken by default, and whether one of them had to wait for a CPU."""

import os
import subprocess
import sys
import time

import pytest

from capkv_edge import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up Linux machine: machine(cpus allowed, {cpu: siblings}, {file: text})."""

    def make(allowed, siblings=(), files=()):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed), raising=False)
        for cpu, text in dict(siblings).items():
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "thread_siblings_list").write_text(text + "\n")
        for name, text in dict(files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


PAIRS = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}  # 4 cores of 2 hyperthreads


@pytest.mark.parametrize(
    "allowed, siblings, files, n",
    [
        (range(8), {}, {}, 8),
        (range(8), PAIRS, {}, 4),
        ([1, 5], PAIRS, {}, 1),
        ([1, 2, 6], PAIRS, {}, 2),
        (range(8), {}, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        (range(8), {}, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        (
            range(8),
            {},
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            2,
        ),
        (range(8), {}, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "20000 100000"}, 1),
        (
            range(8),
            {},
            {
                "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/docker/1\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "500000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        (range(8), {}, {"proc/self/cgroup": "1:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 8),
    ],
)
def test_the_default_is_what_the_process_may_use(machine, allowed, siblings, files, n):
    assert threads.default_count(machine(allowed, siblings, files)) == n


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system sets no affinity")
def test_a_process_bound_to_one_cpu_takes_one_thread():
    cpu = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{cpu}}}); from capkv_edge import threads; print(threads.default_count())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


def test_llama_and_bench_take_it(monkeypatch, tiny_llama, make_llama):
    from capkv_edge.bench.run.engine import Engine

    monkeypatch.setattr(threads, "default_count", lambda: 3)
    llm = make_llama(tiny_llama, n_ctx=64, n_threads=None, n_threads_batch=None)
    assert (llm.context_params.n_threads, llm.context_params.n_threads_batch) == (3, 3)
    with Engine(tiny_llama) as engine:
        assert engine.n_threads == 3
    llm = make_llama(tiny_llama, n_ctx=64, n_threads=1, n_threads_batch=2)
    assert (llm.context_params.n_threads, llm.context_params.n_threads_batch) == (1, 2)


def test_a_clock_tells_the_longest_wait(tmp_path, monkeypatch):
    waits = {"1": 5.0, "2": 1.0}
    now = [100.0]
    monkeypatch.setattr(threads.Clock, "_waits", lambda self: dict(waits))
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = threads.Clock()
    waits.update({"1": 5.5, "2": 2.0, "3": 0.25})
    now[0] += 0.5
    assert clock.waited() == 0.0  # too soon to tell
    now[0] += 3.5
    assert clock.waited() == 0.25


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not tell for how long a thread waits")
def test_waiting_for_a_cpu_is_seen():
    """Two processes on one CPU: each waits while the other runs."""
    cpu = min(os.sched_getaffinity(0))
    code = (
        f"import os, sys, time; os.sched_setaffinity(0, {{{cpu}}}); from capkv_edge import threads\n"
        "child = os.fork()\n"
        "if not child:\n    while True: pass\n"
        "clock = threads.Clock()\nend = time.process_time() + 0.7\n"
        "while time.process_time() < end: pass\n"
        "print(clock.waited())\nos.kill(child, 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0.2 < float(done.stdout) <= 1
