"""How much memory of this machine a process can still take."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available(fallback: int = 0) -> int:
    """Bytes that this process can take without anything being swapped out: on Linux what the kernel says is available, or what is left
    of the control group if that is less, as in a container. Pages of files, a model's among them, count as available.

    fallback: for systems that do not say it.
    """
    found = [n for n in (_meminfo(), *map(_left_of_group, _groups())) if n is not None]
    return min(found) if found else fallback


def _meminfo() -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _groups() -> list:
    """The folders of the control groups that this process is in, the outer ones too."""
    for line in _read("/proc/self/cgroup").splitlines():
        number, kinds, path = line.split(":", 2)
        if number == "0" or "memory" in kinds.split(","):
            inner = (_CGROUPS if number == "0" else _CGROUPS / "memory") / path.strip("/")
            return [inner, *(folder for folder in inner.parents if _CGROUPS in (folder, *folder.parents))]
    return []


def _left_of_group(folder: Path) -> int | None:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most, now = _read(folder / limit).strip(), _read(folder / used).strip()
        if most.isdecimal() and now.isdecimal():
            files = [line.split()[1] for line in _read(folder / "memory.stat").splitlines() if line.startswith("inactive_file ")]
            return max(int(most) - int(now) + sum(map(int, files)), 0)
    return None


def _read(path) -> str:
    try:
        return Path(os.fspath(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
