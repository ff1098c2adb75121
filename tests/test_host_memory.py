"""Free memory: what the kernel says, or what a container leaves."""

import pytest

from capkv_edge import host_memory

MEMINFO = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  4000 kB\n"


@pytest.fixture
def files(monkeypatch):
    """Sets what files hold, {path: text}; all others are missing."""

    def set_files(given):
        monkeypatch.setattr(host_memory, "_read", lambda path: given.get(str(path), ""))

    return set_files


def test_without_a_group_it_is_what_the_kernel_says(files):
    files({"/proc/meminfo": MEMINFO})
    assert host_memory.available() == 4000 << 10


def test_systems_that_do_not_say_it(files):
    files({})
    assert host_memory.available(77) == 77


@pytest.mark.parametrize(
    "group, limit, used, stat",
    [
        ("0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/b/memory.current", "/sys/fs/cgroup/a/b/memory.stat"),
        ("0::/a/b\n", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/a/memory.current", "/sys/fs/cgroup/a/memory.stat"),
        (
            "3:cpu:/x\n7:memory:/a\n",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.stat",
        ),
    ],
)
def test_a_group_leaves_less(files, group, limit, used, stat):
    given = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": group, limit: "3000\n", used: "1000\n", stat: "anon 5\ninactive_file 200\n"}
    files(given)
    assert host_memory.available() == 2200
    files({**given, limit: "max\n"})
    assert host_memory.available() == 4000 << 10
    files({**given, used: "9000\n", stat: ""})
    assert host_memory.available() == 0


def test_here_it_is_a_number():
    assert host_memory.available(1) > 0
