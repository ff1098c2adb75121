"""Locks that let several threads share one Llama: calls wait for each other, and no two are in llama.cpp at once.

A Llama has two locks. `lock` is held by whoever changes the text that the model has read: a whole completion, or one step of a
stream. The second one is held while llama.cpp may be called. Its holder lets others in between two batches, so that
figures, pins and close() need not wait until a completion has ended. Whoever takes both takes `lock` first.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

_Call = TypeVar("_Call", bound=Callable[..., Any])
_Item = TypeVar("_Item")
_Self = TypeVar("_Self", bound="Shared")


class FairLock:
    """A lock that threads get in the order in which they asked for it. The thread that holds it may take it again.

    A lock of `threading` would do, but a thread that releases it and takes it again at once keeps all others out.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()  # (thread, a lock that is released when it is its turn)

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds it."""
        return self._owner == threading.get_ident()

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        if self.is_mine:
            self._depth += 1
            return
        self._wait(depth=1)

    def _wait(self, depth: int) -> None:
        me = threading.get_ident()
        with self._guard:
            if self._owner is None:
                self._owner, self._depth = me, depth
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C
            with self._guard:
                if (me, gate) in self._waiting:
                    self._waiting.remove((me, gate))
                elif self._owner == me:
                    self._hand_on()
            raise
        self._depth = depth

    def _hand_on(self) -> None:
        self._owner, gate = self._waiting.popleft() if self._waiting else (None, None)
        if gate is not None:
            gate.release()

    def release(self) -> None:
        """Give it back. Raises RuntimeError if the calling thread does not hold it."""
        if not self.is_mine:
            raise RuntimeError("this thread does not hold the lock")
        self._depth -= 1
        if not self._depth:
            with self._guard:
                self._hand_on()

    def pause(self) -> None:
        """Let all threads that wait have the lock once, and take it again, as often as it was held."""
        if not self._waiting or not self.is_mine:
            return
        depth, interrupt = self._depth, None
        with self._guard:
            self._hand_on()
        while not self.is_mine:
            try:
                self._wait(depth)
            except KeyboardInterrupt as error:  # raised once the lock is held again, since the caller will release it
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def __enter__(self) -> FairLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Cancelled(Exception):
    """Raised inside a stream that nobody reads any more."""


class Shared:
    """Mixed into Llama: its locks, and what changes the text that it has read."""

    #: Held by each call that changes the text that was read; several may be put under one `with llm.lock:`, a whole stream too.
    lock: FairLock
    _native: FairLock
    _n_changes: int  # of the text: a stream sees from it that others have used the Llama
    _is_cancelled: Callable[[], bool] | None  # asked by pause(), while the thread that set it holds `lock`

    def __new__(cls: type[_Self], *args: Any, **kwargs: Any) -> _Self:
        self = super().__new__(cls)
        self.lock, self._native = FairLock(), FairLock()
        self._n_changes, self._is_cancelled = 0, None
        return self

    def _pause(self) -> None:
        """Between two batches: let calls in that need not wait for the end of this one. Raises Cancelled if nobody reads the stream."""
        self._native.pause()
        if self._is_cancelled is not None and self._is_cancelled():
            raise Cancelled

    def _steps(self, generator: Generator[_Item, Any, Any]) -> Generator[_Item, Any, None]:
        """The generator with both locks held during each of its steps, and none between them."""
        sent = None
        try:
            while True:
                with self.lock, self._native:
                    try:
                        item = generator.send(sent)
                    except StopIteration:
                        return
                sent = yield item
        finally:
            generator.close()


def changes_text(call: _Call) -> _Call:
    """Let one thread at a time run a method of Llama that changes the text that was read."""

    @functools.wraps(call)
    def held(self: Shared, *args: Any, **kwargs: Any) -> Any:
        with self.lock, self._native:
            return call(self, *args, **kwargs)

    return cast(_Call, held)


def uses_native(call: _Call) -> _Call:
    """Let a method of Llama wait until no other thread is in llama.cpp: at most one batch, also while a completion is running."""

    @functools.wraps(call)
    def held(self: Shared, *args: Any, **kwargs: Any) -> Any:
        with self._native:
            return call(self, *args, **kwargs)

    return cast(_Call, held)
