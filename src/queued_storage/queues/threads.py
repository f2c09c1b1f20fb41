"""Background threads of the process itself, without a broker."""

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models.signals import post_migrate

from ..exceptions import InvalidQueue
from ..ledger.aliases import known_storages
from ..ledger.database import in_transaction, is_in_memory, ledger_database
from ..ledger.models import QueuedFile
from ..runtime.forks import ForkSafeLock
from .base import BaseQueue, run_all
from .jobs import JobThreads

FLUSH_WAIT = 10.0  # seconds for which a flush of a test database waits for files in progress
MEMORY_WAIT = 5.0  # seconds for which a commit waits for its files, with a database in memory


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
        self._running: _Threads | None = None

    def enqueue(self, pks: list[int]) -> None:
        if is_in_memory(connections[ledger_database()]):
            _process_aside(pks)
        elif self._is_running or not in_transaction():
            self._started().notify(pks)
        # Otherwise this is a TestCase that runs its callbacks. Threads could not see the rows, and
        # would still be connected when the database is deleted.

    @property
    def _is_running(self) -> bool:
        return self._running is not None and self._running.is_usable

    def retire(self) -> None:
        self.stop(0)

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the threads. Return whether they ended within ``timeout`` seconds.

        The next file that is enqueued starts new ones.
        """
        with _lock:
            threads, self._running = self._running, None
        return threads is None or threads.stop(timeout)

    def _end_process(self) -> None:
        """Wait for the files of this process, then return the others to the ledger."""
        threads = self._running
        if not self.stop(self._exit_wait) and threads:
            threads.let_go()

    def _started(self) -> "_Threads":
        with _lock:
            running = before = self._running
            if running is None or not running.is_usable:
                running = _Threads(self._threads, self._poll, self._aliases)
                self._running = running
                running.start()
                atexit.register(self._end_process)
        if before and before is not running:
            before.stop(0)
        return running

    def _aliases(self) -> list[str]:
        storages = cast("list[_Storage]", known_storages())
        return [storage.alias for storage in storages if self._is_queue_of(storage)]

    def _is_queue_of(self, storage: "_Storage") -> bool:
        try:
            return storage.queue is self
        except ImproperlyConfigured:  # a system check reports it
            return False


# The threads, which end with their database


class _Place(NamedTuple):
    """What threads belong to."""

    pid: int
    alias: str
    database: str


def _place() -> _Place:
    alias = ledger_database()
    return _Place(os.getpid(), alias, str(connections[alias].settings_dict["NAME"]))


class _Threads:
    """The threads of one queue, in one process and for one database."""

    def __init__(self, threads: int, poll: float, aliases: Callable[[], list[str]]) -> None:
        from ..transfers.executor import Executor  # only when there is work

        self._place = _place()
        self._is_stopping = False
        self._has_let_go = False
        self.is_hanging = False  # whether they did not end in time
        self._all_aliases = aliases
        self._executor = Executor(threads, poll, self._aliases)
        self._jobs = JobThreads(poll, self._aliases)
        _not_ended.add(self)

    @property
    def is_usable(self) -> bool:
        """Whether they go on.

        A fork has no threads of its parent. A test runner replaces the database by another, and
        finally puts it back; threads that went on would process the files of the wrong one.
        """
        return not self._is_stopping and self._place == _place()

    def _aliases(self) -> list[str]:
        return self._all_aliases() if self.is_usable else []

    def start(self) -> None:
        self._executor.start()
        self._jobs.start()

    def notify(self, pks: list[int]) -> None:
        self._executor.notify([pk for pk in pks if pk > 0])
        if any(pk < 0 for pk in pks):
            self._jobs.notify()

    def stop(self, timeout: float | None = None) -> bool:
        self._is_stopping = True
        if self._place.pid == os.getpid():
            if self._has_let_go:
                timeout = 0  # their files are not theirs any more
            deadline = time.monotonic() + (timeout or 0)
            self._jobs.ask_to_stop()
            has_ended = self._executor.stop(timeout)
            left = None if timeout is None else max(deadline - time.monotonic(), 0)
            self.is_hanging = not (self._jobs.stop(left) and has_ended)
            if self.is_hanging:
                return False
        _not_ended.discard(self)
        return True

    def let_go(self) -> None:
        """Return the files of threads that did not end in time to the ledger."""
        if self._place.pid == os.getpid() and not self._has_let_go:
            self._has_let_go = True
            self._executor.let_go()


_not_ended: set[_Threads] = set()


def stop_all(timeout: float | None = None, *, lets_go: bool = False) -> bool:
    """Stop the threads of all queues. Return whether they ended within ``timeout`` seconds.

    With ``lets_go``, the files of threads that did not end in time are returned to the ledger. This
    is for processes that end without running the functions of ``atexit``.
    """
    deadline = time.monotonic() + (timeout or 0)
    has_ended = True
    for threads in list(_not_ended):
        left = None if timeout is None else max(deadline - time.monotonic(), 0)
        if not threads.stop(left):
            has_ended = False
            if lets_go:
                threads.let_go()
    return has_ended


def _stop_with_database(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """Stop the threads after a flush.

    Django flushes the test database after each ``TransactionTestCase`` and ``LiveServerTestCase``.
    It cannot delete the database in the end while a thread is connected.
    """
    if sender.label == QueuedFile._meta.app_label and using == ledger_database():
        if _not_ended:
            from ..transfers import throughput  # only when there was work

            throughput.forget()  # which the threads would add to the flushed tables
        is_hanging = any(threads.is_hanging for threads in _not_ended)
        stop_all(0 if is_hanging else FLUSH_WAIT)  # the whole time only once for what hangs


post_migrate.connect(_stop_with_database)


# A database in memory


def _process_aside(pks: list[int]) -> None:
    """Process the files in a thread, and wait for it a while.

    Only tests have the ledger in memory. Connections to such a database don't wait for each other:
    a statement fails while another connection reads or writes the table. So the thread does its
    work while this one waits, and no thread polls.
    """
    if in_transaction():
        return  # the thread could not see the rows
    place = _place()

    def process() -> None:
        connection = connections[place.alias]
        try:
            run_all(pk for pk in pks if _place() == place)
        finally:
            connections.close_all()
            if connection.connection is not None:  # Django does not close a database in memory
                connection.connection.close()

    thread = threading.Thread(target=process, name="queued-storage-memory", daemon=True)
    thread.start()
    thread.join(MEMORY_WAIT)
