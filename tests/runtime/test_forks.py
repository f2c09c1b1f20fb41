"""Locks in a forked process."""

import os
import threading

import pytest

from queued_storage.runtime.forks import ForkSafeLock, after_fork

pytestmark = pytest.mark.one_database


# Python 3.12 warns about the fork, rightly: the child is what this tests.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_lock_is_free_in_a_fork() -> None:
    lock, resets = ForkSafeLock(), []
    after_fork(lambda: resets.append(os.getpid()))
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            assert may_end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(60)
    child = os.fork()
    if not child:
        with lock:
            os._exit(9 if resets == [os.getpid()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    may_end.set()
    thread.join(60)
    assert resets == []


def test_a_lock_is_held_by_one_thread() -> None:
    lock = ForkSafeLock()
    counts = [0]

    def count() -> None:
        for _time in range(1000):
            with lock:
                counts.append(counts[-1] + 1)

    threads = [threading.Thread(target=count) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts[-1] == 4000
