"""Probes the closed remotes of this process, in one thread, until all are open."""

import threading
import time
from contextlib import suppress

from django.db import connections
from django.db.models.signals import post_migrate

from ..conf import settings
from ..ledger import schema
from ..ledger.database import in_transaction, is_in_memory, ledger_database
from ..ledger.remotes import remotes
from ..ledger.sql.clock import database_time, seconds_between
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime import hung
from ..runtime.forks import ForkSafeLock, after_fork
from . import leases, probing
from .circuit import circuit_of
from .gates import gates, is_known

SOONEST = 0.05  # seconds between two looks, at least
ENDS_WITHIN = 2.0  # seconds for which a flush waits for the thread


class Watch(threading.Thread):
    """The thread; it ends when no remote of this process is closed."""

    def __init__(self, database: str) -> None:
        super().__init__(name="queued-storage-watch", daemon=True)
        self._database = database
        self._stopped = threading.Event()
        self._woken = threading.Event()
        # Changed under the lock: what needs the thread lets it look again, or starts another one.
        self.is_wanted = False  # since its last look began
        self._is_over = False

    @property
    def hangs(self) -> bool:
        """Whether a file by which it probes a remote hangs."""
        return self.is_alive() and self.ident in leases.stalled_threads()

    @property
    def goes_on(self) -> bool:
        """Whether it will look again."""
        return self.is_alive() and not self._is_over and not self.hangs

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    def wake(self) -> None:
        """Look at once, because a probe was made due."""
        self._woken.set()

    def run(self) -> None:
        try:
            while (pause := self._look()) is not None:
                self._woken.wait(pause)
                self._woken.clear()
        finally:
            connections.close_all()

    def _look(self) -> float | None:
        """Probe what is due; return how many seconds to wait before the next look, if any."""
        with _lock:
            self.is_wanted = False
        if self._stopped.is_set() or ledger_database() != self._database:
            self._is_over = True
            return None
        try:
            gates.forget()
            if gates.are_settled:
                return None if self._ends() else 0.0
            for alias in gates.closed():
                circuit_of(alias).take_back_if_closed()
            for alias, place in gates.closed_places():
                circuit_of(alias, place).take_back_if_closed()
            probing.probe_due()
            probing.finish_openings()
            return self._pause()
        except Exception as error:  # the database may be back later
            if not schema.is_explained(error):
                logger.warning("Closed remotes could not be probed: %s", reason(error))
            return settings.probe_every
        finally:
            connections.close_all()  # this thread sleeps most of the time

    def _ends(self) -> bool:
        """End, unless somebody found another remote closed since the look began."""
        with _lock:
            self._is_over = not self.is_wanted
            return self._is_over

    def _pause(self) -> float:
        """Return the seconds until the next probe of any remote is due, or the next opening."""
        with_time = filter(is_known, remotes().filter(next_probe_at__isnull=False))
        times = [remote.next_probe_at for remote in with_time if remote.next_probe_at]
        longest = settings.probe_every
        if not times:  # all are paused, or were opened meanwhile
            return longest
        seconds = seconds_between(database_time(self._database), min(times))
        return min(max(seconds, SOONEST), longest)


_lock = ForkSafeLock()
_watch: Watch | None = None


def watch() -> None:
    """See to it that the closed remotes of this process are probed until they are open.

    Inside a transaction, as in a ``TestCase``, no other connection sees them.
    """
    global _watch
    database = ledger_database()
    if is_in_memory(connections[database]) or in_transaction():
        return
    with _lock:
        if _watch is not None and _watch.goes_on:
            _watch.is_wanted = True
            return
        if _watch is not None and _watch.hangs:
            if hung.are_too_many() or not hung.add(_watch):
                return
            _watch.stop()
        _watch = Watch(database)
        with suppress(RuntimeError):  # the interpreter ends, or there are no more threads
            _watch.start()


def probe_soon() -> None:
    """Let the thread probe what is due now; for requests, which must not wait for a remote."""
    watch()
    if (thread := _watch) is not None:
        thread.wake()


def watch_if_closed() -> None:
    """Do so if this process knows of a closed remote, or of one whose opening may have to be
    finished, after it has processed a message."""
    try:
        are_settled = gates.are_settled
    except Exception:  # the ledger is away; the next message asks again
        return
    if not are_settled:
        watch()


def stop() -> None:
    """Stop the thread, for the end of a process or of a test database."""
    global _watch
    watch, _watch = _watch, None
    if watch is not None and watch.is_alive() and watch is not threading.current_thread():
        watch.stop()
        deadline = time.monotonic() + ENDS_WITHIN
        watch.join(max(deadline - time.monotonic(), 0))


def _on_flush(using: str, **kwargs: object) -> None:
    """Stop after a flush, like the threads that transfer files."""
    if using == ledger_database():
        stop()


def _forget() -> None:
    global _watch
    _watch = None


after_fork(_forget)
post_migrate.connect(_on_flush)
