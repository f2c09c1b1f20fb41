"""Keeps the claims of this process alive while their transfers make progress."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from django.db import connections, transaction

from ..conf import settings
from ..exceptions import LeaseLost, TransferError
from ..files.stamps import Stamp
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..runtime.forks import ForkSafeLock, after_fork

BEAT_MAX = 2.0  # seconds: a running transfer learns within this time that it lost its lease


class Lease:
    """A claim on a row: whether it still stands, and when bytes last moved under it."""

    def __init__(self, row: QueuedFile) -> None:
        self.row = row
        self.ledger = ledger()
        self.lost = False
        self.stalled = False
        self.waits = False  # for a thread; no byte can move until then
        self.sent = 0  # bytes
        self.intact: Stamp | None = None  # of the local copy, if all its bytes were compared
        self._duration = settings.lease  # seconds
        self._moved_at = self._renewed_at = time.monotonic()
        self._thread = threading.get_ident()

    def progress(self, sent: int | None = None) -> None:
        """Record that bytes moved, ``sent`` in total; raise ``LeaseLost`` if they are useless."""
        if sent is not None:
            self.sent = sent
        self._moved_at = time.monotonic()
        self.require()

    def moved(self, count: int) -> None:
        """Record that ``count`` more bytes moved, without counting them as sent."""
        self.progress()

    def require(self) -> None:
        """Raise ``LeaseLost`` if the claim is void.

        A process that stood still may have lost it without a beat, so the claim is renewed if the
        last renewal is too long ago.
        """
        if time.monotonic() - self._renewed_at >= self._duration:
            try:
                self._renew()
            finally:
                if threading.get_ident() != self._thread:  # a sender's thread may end at any time
                    connections.close_all()
        if self.stalled:
            raise TransferError(f"No byte moved for {settings.stall_timeout:g} seconds.")
        if self.lost:
            self.lose()

    def confirm(self) -> None:
        """Ask the ledger, then do the same: for use right before what cannot be undone."""
        self._renew()
        self.require()

    def lose(self) -> NoReturn:
        """Give up the claim, because the ledger refused a change."""
        self.lost = True
        raise LeaseLost(f"This worker lost its lease on {self.row}.")

    def begin(self) -> None:
        """End the wait for a thread."""
        self._moved_at = time.monotonic()
        self._thread = threading.get_ident()
        self.waits = False

    def beat(self) -> None:
        """Renew the claim, or find out that it is lost.

        A transfer that stood still for ``STALL_TIMEOUT`` is not renewed, so that one that hangs
        forever is followed by another attempt.
        """
        if not self.waits and time.monotonic() - self._moved_at > settings.stall_timeout:
            self.stalled = True
        else:
            self._renew()

    def _renew(self) -> None:
        started = time.monotonic()
        self.lost = not self.ledger.renew(self.row, self.sent)
        self._renewed_at = started


class _Heart(threading.Thread):
    """The thread of a process that renews all leases of that process."""

    def __init__(self) -> None:
        super().__init__(name="queued-storage-leases", daemon=True)
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            self._changed.notify()

    def remove(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)

    def run(self) -> None:
        while True:
            with self._changed:
                while not self._leases:
                    self._changed.wait()
            try:
                time.sleep(min(settings.lease / 3, BEAT_MAX))
                self._beat_all()
            except Exception as error:  # for example while a setting is invalid
                logger.warning("No lease could be renewed: %s", reason(error))
                time.sleep(BEAT_MAX)

    def _beat_all(self) -> None:
        with self._changed:
            leases = list(self._leases)
        for lease in leases:
            self._beat(lease)
        connections.close_all()  # this thread sleeps most of the time

    @staticmethod
    def _beat(lease: Lease) -> None:
        try:
            lease.beat()
        except Exception as error:  # the database may be back at the next beat
            about = fields_of(lease.row) | {"queued_error": type(error).__name__}
            logger.warning("A lease could not be renewed: %s", reason(error), extra=about)


_lock = ForkSafeLock()
_heart: _Heart | None = None


def _beating_heart() -> _Heart:
    global _heart
    with _lock:
        if _heart is None or not _heart.is_alive():  # there is none yet, or none in this fork
            _heart = _Heart()
            # At the end of the interpreter no thread can be started. Each lease then checks the
            # clock itself.
            with suppress(RuntimeError):
                _heart.start()
        return _heart


_waiting: dict[tuple[int, str], Lease] = {}


def _after_fork() -> None:
    global _heart
    _heart = None
    _waiting.clear()  # these are the parent's


after_fork(_after_fork)


def wait(row: QueuedFile) -> None:
    """Renew the claim on ``row`` until ``keep()`` or ``forget()`` is called for it."""
    lease = Lease(row)
    lease.waits = True
    _waiting[row.pk, row.lease_token] = lease
    _beating_heart().add(lease)


def forget(row: QueuedFile) -> None:
    """Stop renewing a claim that waits for a thread."""
    if lease := _waiting.pop((row.pk, row.lease_token), None):
        _beating_heart().remove(lease)


@contextmanager
def keep(row: QueuedFile) -> Iterator[Lease]:
    """Renew the claim on ``row`` until the block ends.

    Inside a transaction, as in a ``TestCase``, only this connection sees the claim. The heart
    could not find it, and no other worker could take it, so it is not renewed.
    """
    lease = _waiting.pop((row.pk, row.lease_token), None) or Lease(row)
    lease.begin()
    if transaction.get_connection(lease.ledger.db).in_atomic_block:
        yield lease
        return
    heart = _beating_heart()
    try:
        heart.add(lease)
        yield lease
    finally:
        heart.remove(lease)
