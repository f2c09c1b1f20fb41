"""The embedded default: threads of the process itself, without a broker."""

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured

from ..exceptions import InvalidQueue
from ..ledger.aliases import known_storages
from .base import BaseQueue

if TYPE_CHECKING:
    from ..transfers.executor import Executor


_lock = threading.Lock()  # of all queues: nobody holds it for long


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one


os.register_at_fork(after_in_child=_after_fork)


class ThreadQueue(BaseQueue):
    """Runs files in ``threads`` background threads, started at the first commit.

    They also look for due rows every ``poll`` seconds: retries, and what a process that died
    left behind. A process that ends waits up to ``exit_wait`` seconds for what it was told; what
    is not done then stays in the ledger for any other process, sweep or worker.
    """

    def __init__(self, threads: int = 4, poll: float = 5, exit_wait: float = 10) -> None:
        if not isinstance(threads, int) or threads < 1:
            raise InvalidQueue(f"threads={threads!r}: give a whole number of 1 or more.")
        if not isinstance(poll, int | float) or not 0 < poll <= threading.TIMEOUT_MAX:
            raise InvalidQueue(f"poll={poll!r}: give seconds, above 0.")
        if not isinstance(exit_wait, int | float) or not 0 <= exit_wait <= threading.TIMEOUT_MAX:
            raise InvalidQueue(f"exit_wait={exit_wait!r}: give seconds, 0 or more.")
        self._threads = threads
        self._poll = poll
        self._exit_wait = exit_wait
        self._executor: Executor | None = None
        self._pid = 0

    def enqueue(self, pks: list[int]) -> None:
        self._started().tell(pks)

    def _retire(self) -> None:
        self.stop(0)

    def stop(self, timeout: float | None = None) -> bool:
        """End the threads; whether they ended in time. The next enqueue starts new ones."""
        with _lock:
            executor, self._executor = self._executor, None
        return executor is None or self._pid != os.getpid() or executor.stop(timeout)

    def _started(self) -> "Executor":
        from ..transfers.executor import Executor  # not before there is work

        with _lock:
            if self._executor is None or self._pid != os.getpid():  # threads do not survive a fork
                self._executor = Executor(self._threads, self._poll, self._aliases)
                self._executor.start()
                self._pid = os.getpid()
                atexit.register(self.stop, self._exit_wait)
            return self._executor

    def _aliases(self) -> list[str]:
        return [storage.alias for storage in known_storages() if self._is_queue_of(storage)]

    def _is_queue_of(self, storage: Any) -> bool:
        try:
            return bool(storage.queue is self)
        except ImproperlyConfigured:  # the checks say it, and the other storages go on
            return False
