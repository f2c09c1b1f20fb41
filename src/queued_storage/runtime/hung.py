"""The threads of this process that hang: no thread can be ended, so they are only counted."""

import threading

from .forks import ForkSafeLock, after_fork

MOST = 16  # threads that hang and are replaced; each keeps its memory, and perhaps a connection

_lock = ForkSafeLock()
_threads: list[threading.Thread] = []


def add(thread: threading.Thread) -> bool:
    """Count a thread that hangs. Return whether it may be replaced by another one."""
    with _lock:
        may_be_replaced = _count() < MOST
        _threads.append(thread)
        return may_be_replaced


def count() -> int:
    """Return how many threads hang. One that goes on after all ends soon."""
    with _lock:
        return _count()


def are_too_many() -> bool:
    """Return whether a thread could not be replaced, so that the process should be restarted."""
    return count() > MOST


def _count() -> int:
    _threads[:] = [thread for thread in _threads if thread.is_alive()]
    return len(_threads)


after_fork(_threads.clear)
