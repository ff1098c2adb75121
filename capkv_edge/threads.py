"""How many CPU threads to compute with, and how long they waited for a CPU."""

import os
import time
from pathlib import Path

LEAST_S = 1.0  # seconds that a Clock has to run before it tells a share


def _allowed() -> set:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _n_cores(cpus: set, root: Path) -> int:
    """Number of physical cores of these CPUs: hyperthreads of one core count once. Only Linux tells; elsewhere all CPUs count."""
    return len({_read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in cpus})


def _quota(root: Path) -> float:
    """How many CPUs the control groups of this process may use at once; infinite without a limit or without such groups."""
    least = float("inf")
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            base, name = root / "sys/fs/cgroup", "cpu.max"
        elif "cpu" in controllers.split(","):
            base, name = root / "sys/fs/cgroup" / controllers, "cpu.cfs_quota_us"
        else:
            continue
        folder = base / group.strip("/")
        for at in (folder, *folder.parents):
            limit, _, period = _read(at / name).partition(" ")
            period = period or _read(at / "cpu.cfs_period_us")
            if limit.isdecimal() and period.isdecimal() and int(period):
                least = min(least, int(limit) / int(period))
            if at == base:
                break
    return least


def default_count(root: Path = Path("/")) -> int:
    """Threads to compute with: one for each physical core that this process may use.

    Its affinity and the CPU limit of its control groups say what it may use. Hyperthreads are not counted: ggml's threads wait
    for each other by spinning, which takes the core from the other hyperthread.
    """
    return max(1, int(min(_n_cores(_allowed(), root), _quota(root))))


class Clock:
    """Measures how long the threads of this process have waited for a CPU since the Clock was made. Only Linux tells."""

    def __init__(self):
        self._started, self._before = time.perf_counter(), self._waits()

    def _waits(self) -> dict:
        """{thread: seconds for which it could have run but had no CPU}."""
        found = {}
        for task in Path("/proc/self/task").glob("*"):
            words = _read(task / "schedstat").split()
            if len(words) == 3:
                found[task.name] = int(words[1]) / 1e9
        return found

    def waited(self) -> float:
        """The share of the time, from 0 to 1, for which the thread that waited most had no CPU.

        That thread counts since all others wait for it at every barrier. 0 in the first second and where the system does not
        tell.
        """
        passed = time.perf_counter() - self._started
        if passed < LEAST_S:
            return 0.0
        return min(1.0, max((now - self._before.get(name, 0) for name, now in self._waits().items()), default=0) / passed)
