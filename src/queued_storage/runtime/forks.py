"""Keep locks usable in a process that was forked while a thread held them."""

import os
import threading
from collections.abc import Callable
from types import TracebackType


def after_fork(reset: Callable[[], object]) -> None:
    """Call ``reset`` in each child process that is forked from now on.

    The child has the memory of its parent, but only the thread that forked. ``reset`` cannot be
    unregistered, so it should belong to an object that lives as long as the process.
    """
    os.register_at_fork(after_in_child=reset)


class ForkSafeLock:
    """A lock that is free in a forked process, even if a thread of the parent process held it.

    The thread that forks must not hold it.
    """

    def __init__(self) -> None:
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()
