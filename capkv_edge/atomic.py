"""Files that appear whole or not at all, and that only their owner may read."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None

_CHUNK = 1 << 20


def write(path: str, parts) -> None:
    """Write bytes to a file that appears at its path whole or not at all, with mode 0600.

    A write that fails leaves nothing behind, and leaves an older file at that path as it was.

    Args:
        path: absolute, and no symbolic link.
        parts: an iterable of buffers, written one after another.

    Raises:
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "not a regular file")
    folder, name = os.path.split(path)
    prefix = f".capkv-{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}-"
    _sweep(folder, prefix)
    aside, fd = create(folder, prefix)
    try:
        try:
            for part in parts:
                _put(fd, part)
            os.fsync(fd)
            if os.name != "nt":
                os.replace(aside, path)
        finally:
            os.close(fd)
        if os.name == "nt":  # Windows cannot rename an open file
            os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    _sync_folder(folder)


def _put(fd: int, part) -> None:
    part = memoryview(part)
    while part:
        part = part[os.write(fd, part[:_CHUNK]) :]


def create(folder: str, prefix: str) -> tuple:
    """Make a file with a name of its own in a folder, with mode 0600, and lock it; returns its path and its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        aside = os.path.join(folder, f"{prefix}{secrets.token_hex(8)}.tmp")
        fd = os.open(aside, flags, 0o600)
        # the lock tells other saves that this file is in use; a save that removed it before it was locked leaves it without a name
        with contextlib.suppress(OSError):  # some file systems have no locks
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink > 0:
            return aside, fd
        os.close(fd)


def _sweep(folder: str, prefix: str) -> None:
    """Remove the files of earlier saves to the same path that were killed. Nobody holds the lock of such a file."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not (name.startswith(prefix) and name.endswith(".tmp")):
                continue
            left = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                fd = os.open(left, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
                try:
                    if fcntl is not None:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(left)
                finally:
                    os.close(fd)


def _sync_folder(folder: str) -> None:
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(fd)
