"""Keeps the claims of this process alive while their transfers make progress."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from django.db import connections, transaction

from ..conf import settings
from ..exceptions import LeaseLost, TransferStalled
from ..files.stamps import Stamp
from ..ledger.copy_claims import copy_claims
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.preparation_claims import preparation_claims
from ..reporting.counts import counted
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..runtime.forks import ForkSafeLock, after_fork
from .solitude import solitude

BEAT_MAX = 2.0  # seconds: a running transfer learns within this time that it lost its lease
AT_ONCE = 100  # leases that are renewed in one transaction, at most


class Lease:
    """A claim on a row: whether it still stands, and when bytes last moved under it."""

    is_of_file = True  # False: another thread may claim the file meanwhile

    def __init__(self, row: QueuedFile) -> None:
        self.row = row
        self.ledger = ledger()
        self.lost = False
        self.stalled = False
        self.waits = False  # for a thread; no byte can move until then
        self.is_over = False  # ended by another thread than its own, which must not go on
        self.sent = 0  # bytes
        self.on_stall: Callable[[], object] | None = None  # records the failure in the ledger
        self.thread = threading.get_ident()  # that does the work
        self.intact: Stamp | None = None  # of the local copy, if all its bytes were compared
        self._duration = settings.lease  # seconds
        self._moved_at = self._renewed_at = time.monotonic()

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
                renew([self])
            finally:
                if threading.get_ident() != self.thread:  # a sender's thread may end at any time
                    connections.close_all()
        if self.stalled:
            raise self.stall()
        if self.lost:
            self.lose()

    def confirm(self) -> None:
        """Ask the ledger, then do the same: for use right before what cannot be undone.

        If somebody has locked the row, wait.
        """
        started = time.monotonic()
        self.renewed(bool(self.ledger.renew(self.row, self.sent)), started)
        self.require()

    def lose(self) -> NoReturn:
        """Give up the claim, because the ledger refused a change."""
        self.lost = True
        raise LeaseLost(f"This worker lost its lease on {self.row}.")

    def end(self) -> None:
        """Make its thread stop, since the claim is ended for it."""
        self.is_over = self.lost = True

    def begin(self) -> None:
        """End the wait for a thread."""
        self._moved_at = time.monotonic()
        self.thread = threading.get_ident()
        self.waits = False

    def stall(self) -> TransferStalled:
        return TransferStalled(f"No byte moved for {settings.stall_timeout:g} seconds.")

    def beat(self) -> None:
        """Renew the claim, or find out that it is lost or that its work stalls."""
        if self.is_current():
            renew([self])

    def is_current(self) -> bool:
        """Return whether to renew the claim.

        A transfer that stood still for ``STALL_TIMEOUT`` is not renewed, so that one that hangs
        forever is followed by another attempt, and neither is a file that waited as long for a
        thread.
        """
        if self.is_over or self.stalled:
            return False
        if time.monotonic() - self._moved_at <= settings.stall_timeout:
            return True
        self.stalled = not self.waits
        return False

    def renewed(self, stands: bool | None, moment: float) -> None:
        """Take the ledger's answer; None says that somebody has locked the row."""
        self.lost = self.is_over or stands is False
        self._renewed_at = moment


def renew(leases: Sequence[Lease]) -> None:
    """Renew leases of one database, past the rows that somebody has locked."""
    started = time.monotonic()
    for start in range(0, len(leases), AT_ONCE):
        batch = leases[start : start + AT_ONCE]
        answers = batch[0].ledger.renew_unlocked([(lease.row, lease.sent) for lease in batch])
        for lease, stands in zip(batch, answers, strict=True):
            lease.renewed(stands, started)


class OtherLease(Lease):
    """A claim on something else of a file, which has a token of its own."""

    ledger: Any
    is_of_file = False

    def give_back(self) -> None:
        """End the claim, because the process ends; the attempt doesn't count."""
        self.ledger.give_back(self.row, count=False)


class CopyLease(OtherLease):
    """A claim on a copy on a mirror; the row is that of ``claimed_row()``."""

    def __init__(self, row: QueuedFile) -> None:
        super().__init__(row)
        self.ledger = copy_claims()


class PreparationLease(OtherLease):
    """A claim on the preparation of a file; the row is that of ``prepared_row()``."""

    def __init__(self, row: QueuedFile) -> None:
        super().__init__(row)
        self.ledger = preparation_claims()


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

    def leases(self) -> list[Lease]:
        with self._changed:
            return list(self._leases)

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
        current: dict[tuple[str, type[Lease]], list[Lease]] = defaultdict(list)
        for lease in self.leases():
            was_stalled = lease.stalled
            if lease.is_current():
                current[lease.ledger.db, type(lease)].append(lease)
            elif lease.stalled and not was_stalled:
                _on_stall(lease)
        for leases in current.values():
            self._beat(leases)
        connections.close_all()  # this thread sleeps most of the time

    @staticmethod
    def _beat(leases: list[Lease]) -> None:
        try:
            renew(leases)
        except Exception as error:  # the database may be back at the next beat
            about = fields_of(leases[0].row) if len(leases) == 1 else {}
            logger.warning(
                "%s could not be renewed: %s",
                counted(len(leases), "A lease", "{} leases"),
                reason(error),
                extra=about | {"queued_error": type(error).__name__},
            )


def _on_stall(lease: Lease) -> None:
    """Record the failure in a thread of its own, since the ledger or a signal may hang as well."""
    solitude.give_up(lease.thread)
    if lease.on_stall:
        recorder = threading.Thread(target=lease.on_stall, name="queued-storage-stall", daemon=True)
        with suppress(RuntimeError):  # without a thread, the lease expires
            recorder.start()


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


def _kept() -> Iterable[Lease]:
    return _heart.leases() if _heart else ()


def held() -> set[int]:
    """Return the keys of the files that this process has in hand, except the calling thread.

    Files that wait for a thread are included, those of threads that hang are not.
    """
    me = threading.get_ident()
    return {
        lease.row.pk
        for lease in _kept()
        if lease.is_of_file
        and not (lease.stalled or lease.is_over)
        and (lease.waits or lease.thread != me)
    }


def stalled_threads() -> set[int]:
    """Return the threads whose work stalls."""
    return {lease.thread for lease in _kept() if lease.stalled}


def of_threads(threads: Iterable[int]) -> list[Lease]:
    """Return the leases under which these threads work."""
    chosen = set(threads)
    return [
        lease
        for lease in _kept()
        if lease.thread in chosen and not (lease.waits or lease.stalled or lease.is_over)
    ]


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
    with _kept_alive(lease):
        yield lease


@contextmanager
def keep_copy(row: QueuedFile) -> Iterator[CopyLease]:
    """Do the same for the claim on a copy."""
    lease = CopyLease(row)
    with _kept_alive(lease):
        yield lease


@contextmanager
def keep_preparation(row: QueuedFile) -> Iterator[PreparationLease]:
    """Do the same for the claim on a preparation."""
    lease = PreparationLease(row)
    with _kept_alive(lease):
        yield lease


@contextmanager
def _kept_alive(lease: Lease) -> Iterator[None]:
    if transaction.get_connection(lease.ledger.db).in_atomic_block:
        yield
        return
    heart = _beating_heart()
    try:
        heart.add(lease)
        yield
    finally:
        heart.remove(lease)
