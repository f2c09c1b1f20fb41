"""Messages about jobs, and the threads of a process that carry jobs out."""

import threading
import time
from collections.abc import Callable, Collection

from django.db import connections
from django.utils.module_loading import import_string

from ..ledger.jobs import are_available, jobs
from ..ledger.schema import is_explained
from ..reporting.logs import logger
from .base import RUN_JOB, BaseQueue, message_of_job

THREADS_MAX = 4  # of one storage, of which all but one hang
POLL_MIN = 5.0  # seconds between two queries for due jobs that no message was about


def notify(queue: BaseQueue, pks: list[int]) -> None:
    """Have a worker of the queue go on with these jobs."""
    for pk in pks:
        queue.enqueue([message_of_job(pk)])


class JobThreads:
    """Go on with the due jobs of ``aliases``, one job of each storage at a time.

    One thread queries the ledger, every ``poll`` seconds and when it is notified. Each job has a
    thread of its own while it runs, so that a remote that hangs delays only its own jobs. If a file
    takes so long that the lease of its job expires, another thread looks after the job.
    """

    def __init__(self, poll: float, aliases: Callable[[], Collection[str]]) -> None:
        self._poll = max(poll, POLL_MIN)
        self._aliases = aliases
        self._changed = threading.Condition()
        self._is_notified = False
        self._is_stopping = False
        self._workers: dict[threading.Thread, tuple[int, str]] = {}  # their job and its alias
        self._finder = threading.Thread(target=self._find, name="queued-storage-jobs", daemon=True)

    def start(self) -> None:
        self._finder.start()

    def notify(self) -> None:
        with self._changed:
            self._is_notified = True
            self._changed.notify()

    def ask_to_stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop after the files that are being processed; return whether all threads ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.ask_to_stop()
        self._finder.join(timeout)
        workers = list(self._workers)
        for thread in workers:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in (self._finder, *workers))

    def is_idle(self) -> bool:
        """Whether no job runs."""
        return not self._workers

    def _find(self) -> None:
        while not self._is_stopping:
            try:
                self._start_due()
            except Exception as error:  # the ledger may be back at the next query
                if not is_explained(error):
                    logger.exception("The ledger could not be queried for jobs.")
            connections.close_all()
            with self._changed:
                if not (self._is_notified or self._is_stopping):
                    self._changed.wait(self._poll)
                self._is_notified = False

    def _start_due(self) -> None:
        if not are_available():
            return
        for pk, alias in jobs().due_keys(list(self._aliases())):
            if self._is_stopping or not self._has_room(pk, alias):
                continue
            name = f"queued-storage-job-{pk}"
            thread = threading.Thread(target=self._work, args=(pk,), name=name, daemon=True)
            self._workers[thread] = pk, alias
            thread.start()

    def _has_room(self, pk: int, alias: str) -> bool:
        """Whether the threads of the storage have lost this very job, and are not too many."""
        running = [job for job, its_alias in list(self._workers.values()) if its_alias == alias]
        return len(running) < THREADS_MAX and all(job == pk for job in running)

    def _work(self, pk: int) -> None:
        try:
            import_string(RUN_JOB)(pk, lambda: self._is_stopping)
        except Exception:  # the lease will expire, and a worker goes on
            logger.exception("The job %s was interrupted.", pk)
        finally:
            connections.close_all()
            del self._workers[threading.current_thread()]
            self.notify()  # there may be another job of the storage
