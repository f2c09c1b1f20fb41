"""The outcome of a transfer that was requested."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator

from django.core.files.storage import Storage

from ..exceptions import TransferError, TransferTimeout
from ..ledger.availability import closed_sentence
from ..ledger.database import in_transaction, ledger
from ..ledger.models import QueuedFile
from ..ledger.preparations import preparations
from ..ledger.states import KNOWN, UNPUBLISHED, State

_POLL_MAX = 0.5  # seconds between two queries of the ledger


def wait_until(is_over: Callable[[], bool], timeout: float | None) -> bool:
    """Ask again and again, at growing intervals; return False after ``timeout`` seconds."""
    for pause in pauses(timeout):
        if is_over():
            return True
        time.sleep(pause)
    return is_over()


def pauses(timeout: float | None) -> Iterator[float]:
    """Yield the seconds to wait until the next question, until ``timeout`` seconds have passed."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.005
    while (left := pause if deadline is None else deadline - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 1.5, _POLL_MAX)


class TransferResult:
    """The outcome of one transfer, with the interface of Celery's results."""

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self._queued = False
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<TransferResult of file {self.pk}>"

    def enqueued(self, error: Exception | None) -> None:
        """Note that the queue was notified; ``error`` is how the attempt ended if it ran at
        once."""
        self._queued = True
        self._error = error

    @property
    def queued_file(self) -> QueuedFile | None:
        """The ledger's row, or None if the file was deleted."""
        return ledger().filter(pk=self.pk).first()

    @property
    def state(self) -> str | None:
        """A ``QueuedFile.State``; None if the file was deleted."""
        return ledger().filter(pk=self.pk).values_list("state", flat=True).first()

    def ready(self) -> bool:
        """Return whether the transfer has ended."""
        state = self.state
        # Before the queue is notified, a held file may be one whose transfer is not committed.
        is_cancelled = state == State.HELD and self._queued
        if state == State.PREPARING:
            return not preparations().of(self.pk).waiting().exists() and self.state == state
        return is_cancelled or state not in {State.HELD, State.PENDING, State.TRANSFERRING}

    def get(self, timeout: float | None = None, propagate: bool = True) -> bool:
        """Wait for the transfer to end; return True if the file is on the remote.

        A failure raises the exception of the transfer if it ran in this thread, else
        ``TransferError`` with the reason; with ``propagate=False`` False is returned instead.
        ``TransferTimeout``, a ``TimeoutError``, is raised after ``timeout`` seconds.
        """
        if in_transaction() and not self._queued and not self.ready():
            raise TransferError(
                "The transfer starts after the transaction is committed; call get() after that."
            )
        if self._error is None and not wait_until(self.ready, timeout):
            raise self._too_late(timeout or 0)
        row = self.queued_file
        if row and row.state == State.TRANSFERRED:
            return True
        if not propagate:
            return False
        raise self._error or TransferError(_why(row))

    def _too_late(self, timeout: float) -> TransferTimeout:
        text = f"The file was not transferred within {timeout:g} seconds; the transfer continues."
        row = self.queued_file
        return TransferTimeout(text if row is None else f"{text}{obstacle(row)}")


def obstacle(row: QueuedFile) -> str:
    """What keeps a file from being transferred, as a sentence after another one; "" if unknown."""
    if closed := closed_sentence(row.alias):
        return f" {closed}"
    if row.last_error:
        return f" The last attempt to transfer {row.name!r} failed: {row.last_error}"
    return ""


def _why(row: QueuedFile | None) -> str:
    if row is None or row.state == State.DELETING:
        return "The file was deleted."
    if row.state == State.HELD:
        return "The transfer was cancelled; the file is held until transfer() is called for it."
    if row.state in UNPUBLISHED:
        return stopped_by_step(row)
    if row.state not in KNOWN:
        return unknown_state(row)
    return row.last_error


def stopped_by_step(row: QueuedFile) -> str:
    """Why a file is rejected, or held."""
    preparation = preparations().of(row.pk).first()
    if row.state == State.REJECTED:
        return f"{row} was rejected. {preparation.reason if preparation else ''}".strip()
    return f"{row} is held. {preparation.last_error if preparation else ''}".strip()


def unknown_state(row: QueuedFile) -> str:
    return (
        f"{row} is in the state {row.state!r}, which this version of queued_storage does not know. "
        f"Only processes of the version that wrote the state can transfer the file."
    )


class LastResults:
    """The last result of each storage in each thread, for ``storage.result``."""

    def __init__(self) -> None:
        self._local = threading.local()

    def _of_thread(self) -> "weakref.WeakKeyDictionary[Storage, TransferResult]":
        if not hasattr(self._local, "results"):
            self._local.results = weakref.WeakKeyDictionary()
        results: weakref.WeakKeyDictionary[Storage, TransferResult] = self._local.results
        return results

    def get(self, storage: Storage) -> TransferResult | None:
        return self._of_thread().get(storage)

    def new(self, storage: Storage, pk: int) -> TransferResult:
        """Return a result of this file, which is the storage's last one from now on."""
        result = TransferResult(pk)
        self._of_thread()[storage] = result
        return result


last_results = LastResults()
