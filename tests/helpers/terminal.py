"""A real terminal: a process on a pseudo terminal, whose screen is kept as a person would see it."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte

CHAT = [sys.executable, "-c", "import sys; from capkv_edge.chat.cli import main; sys.exit(main())"]


class Terminal:
    """Runs a command on a terminal.

    Args:
        command: and its arguments.
        rows, columns: of the screen.
        env: variables beside the caller's.
    """

    def __init__(self, command, rows=30, columns=100, **env):
        self.screen = pyte.HistoryScreen(columns, rows, history=2000, ratio=1e-6)
        self._stream, self.raw = pyte.ByteStream(self.screen), b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            gone = ("NO_COLOR", "COLUMNS", "LINES", "COLORFGBG", "FORCE_COLOR")
            inherited = {name: value for name, value in os.environ.items() if name not in gone}
            env = {**inherited, "TERM": "xterm-256color", "COLORTERM": "truecolor", **env}
            os.execvpe(command[0], [str(word) for word in command], env)  # execvp() would give what readline sets beside os.environ
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.write_process_input = self.send  # answers, as where the cursor is
        self.status = None

    def send(self, text: str) -> None:
        """Type a text; "\\r" is the enter key, "\\t" the tab key."""
        os.write(self._fd, text.encode())

    def lines(self) -> list:
        """All lines that the screen has had, those that have left it at its top too."""
        columns = range(self.screen.columns)
        gone = ["".join(row[column].data for column in columns) for row in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display]]

    def text(self) -> str:
        return "\n".join(self.lines())

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # the process has ended
            data = b""
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def wait_for(self, what, seconds: float = 60) -> None:
        """Wait until a text is on the screen, or until what(self) is true. Fails with the screen where it is not in time."""
        is_there = what if callable(what) else lambda terminal: what in terminal.text()
        end = time.monotonic() + seconds
        while not is_there(self):
            if not self._read(0.1) or time.monotonic() > end:
                assert is_there(self), f"waited for {what!r}, and the screen is:\n{self.text()}"
                return

    def settle(self, seconds: float = 0.5) -> None:
        """Wait until nothing was drawn for a while."""
        n = -1
        while n != len(self.raw):
            n, end = len(self.raw), time.monotonic() + seconds
            while time.monotonic() < end and self._read(0.05):
                pass

    def end(self, seconds: float = 60) -> int:
        """Wait until the process has ended; returns its exit status."""
        end = time.monotonic() + seconds
        while self.status is None and time.monotonic() < end:
            self._read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        assert self.status is not None, f"it did not end, and the screen is:\n{self.text()}"
        while self._read(0) and select.select([self._fd], [], [], 0)[0]:
            pass
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)
