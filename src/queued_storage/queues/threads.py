"""Background threads of the process itself, without a broker."""

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING, Protocol, cast

from django.core.exceptions import ImproperlyConfigured

from ..exceptions import InvalidQueue
from ..ledger.aliases import known_storages
from ..runtime.forks import ForkSafeLock
from .base import BaseQueue
from .jobs import JobThreads

if TYPE_CHECKING:
    from ..transfers.executor import Executor


class _Storage(Protocol):
    @property
    def alias(self) -> str: ...

    @property
    def queue(self) -> BaseQueue: ...


_lock = ForkSafeLock()  # shared by all queues, because it is never held for long


class ThreadQueue(BaseQueue):
    """Processes files in ``threads`` background threads, started at the first commit.

    Every ``poll`` seconds, they also query the ledger for due files: retries, and files that a
    dead process left behind. A process that exits waits up to ``exit_wait`` seconds for the files
    that it was notified of. The others stay due for another process, sweep or worker.
    """

    def __init__(self, threads: int = 4, poll: float = 5, exit_wait: float = 10) -> None:
        if not isinstance(threads, int) or threads < 1:
            raise InvalidQueue(f"threads must be a whole number of at least 1, not {threads!r}.")
        if not isinstance(poll, int | float) or not 0 < poll <= threading.TIMEOUT_MAX:
            raise InvalidQueue(f"poll must be a positive number of seconds, not {poll!r}.")
        if not isinstance(exit_wait, int | float) or not 0 <= exit_wait <= threading.TIMEOUT_MAX:
            raise InvalidQueue(
                f"exit_wait must be a number of seconds, 0 or more, not {exit_wait!r}."
            )
        self._threads = threads
        self._poll = poll
        self._exit_wait = exit_wait
        self._running: tuple[Executor, JobThreads] | None = None
        self._pid = 0

    def enqueue(self, pks: list[int]) -> None:
        executor, job_threads = self._started()
        executor.notify([pk for pk in pks if pk > 0])
        if any(pk < 0 for pk in pks):
            job_threads.notify()

    def retire(self) -> None:
        self.stop(0)

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the threads. Return whether they ended within ``timeout`` seconds.

        The next file that is enqueued starts new ones.
        """
        with _lock:
            threads, self._running = self._running, None
        if threads is None or self._pid != os.getpid():
            return True
        executor, job_threads = threads
        job_threads.ask_to_stop()
        started = time.monotonic()
        has_stopped = executor.stop(timeout)
        left = None if timeout is None else max(timeout - (time.monotonic() - started), 0)
        return job_threads.stop(left) and has_stopped

    def _started(self) -> "tuple[Executor, JobThreads]":
        from ..transfers.executor import Executor  # only when there is work

        with _lock:
            if self._running is None or self._pid != os.getpid():  # a fork has no threads yet
                executor = Executor(self._threads, self._poll, self._aliases)
                job_threads = JobThreads(self._poll, self._aliases)
                self._running = executor, job_threads
                executor.start()
                job_threads.start()
                self._pid = os.getpid()
                atexit.register(self.stop, self._exit_wait)
            return self._running

    def _aliases(self) -> list[str]:
        storages = cast("list[_Storage]", known_storages())
        return [storage.alias for storage in storages if self._is_queue_of(storage)]

    def _is_queue_of(self, storage: "_Storage") -> bool:
        try:
            return storage.queue is self
        except ImproperlyConfigured:  # a system check reports it
            return False
