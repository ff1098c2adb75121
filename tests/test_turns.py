"""The lock that threads get in the order in which they asked for it."""

import signal
import threading
import time

import pytest

from capkv_edge.turns import FairLock


def started(*targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_threads_get_it_in_the_order_in_which_they_asked():
    lock, order, threads = FairLock(), [], []

    def take(i):
        with lock:
            order.append(i)

    with lock:
        for i in range(5):
            threads += started(lambda i=i: take(i))
            wait_until(lambda i=i: len(lock._waiting) == i + 1)
        assert order == []
    join(threads)
    assert order == [0, 1, 2, 3, 4] and not lock.is_mine


def test_its_holder_may_take_it_again():
    lock, entered = FairLock(), []
    with lock:
        with lock:
            threads = started(lambda: [lock.acquire(), entered.append(1), lock.release()])
            wait_until(lambda: lock._waiting)
        assert lock.is_mine and not entered
    join(threads)
    assert entered == [1]


def test_a_pause_lets_all_in_that_wait_and_takes_it_back():
    lock, entered = FairLock(), []

    def take():
        with lock:
            entered.append(lock._depth)

    with lock, lock:
        lock.pause()
        assert lock._depth == 2
        threads = started(take, take)
        wait_until(lambda: len(lock._waiting) == 2)
        lock.pause()
        assert entered == [1, 1] and lock.is_mine and lock._depth == 2
    join(threads)


def test_a_thread_that_takes_it_again_at_once_keeps_nobody_out():
    lock, n_taken, is_over = FairLock(), [0], threading.Event()

    def hog():
        while not is_over.is_set():
            with lock:
                n_taken[0] += 1
                time.sleep(0.001)

    threads = started(hog)
    wait_until(lambda: n_taken[0] > 0)
    n_between = []
    for _ in range(20):
        before = n_taken[0]
        with lock:
            n_between.append(n_taken[0] - before)
    is_over.set()
    join(threads)
    assert max(n_between) <= 2


def test_giving_back_what_another_thread_holds():
    lock = FairLock()
    with pytest.raises(RuntimeError, match="^this thread does not hold the lock$"):
        lock.release()


@pytest.mark.parametrize("waits_in", ["acquire", "pause"])
def test_ctrl_c_while_it_waits(waits_in):
    lock, go, taken = FairLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            wait_until(lambda: lock._waiting)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            go.wait(0.2)

    if waits_in == "acquire":
        threads = started(hold)
        taken.wait()
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
            time.sleep(1)
        assert lock._owner != threading.get_ident()
    else:
        with lock:
            threads = started(hold)
            wait_until(lambda: lock._waiting)
            with pytest.raises(KeyboardInterrupt):
                lock.pause()
                time.sleep(1)
            assert lock.is_mine
    go.set()
    join(threads)
    assert lock._owner is None and not lock._waiting
