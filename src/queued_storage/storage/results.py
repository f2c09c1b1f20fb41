"""What a transfer that was asked for comes to."""

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from django.db import transaction

from ..exceptions import TransferError, TransferTimeout
from ..ledger.database import ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import State

_POLL_MAX = 0.5  # seconds between two looks at the ledger


def wait_until(is_over: Callable[[], bool], timeout: float | None, what: str) -> None:
    """Look again and again, in growing steps; ``TransferTimeout`` after ``timeout`` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.005
    while not is_over():
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TransferTimeout(f"{what} took longer than {timeout} seconds; it goes on.")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _POLL_MAX)


class TransferResult:
    """The end of one transfer, to be asked for, in the manner of Celery's results."""

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self._queued = False
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<TransferResult of file {self.pk}>"

    def told(self, error: Exception | None) -> None:
        """The queue knows; ``error`` is how the attempt ended if it ran at once."""
        self._queued = True
        self._error = error

    @property
    def queued_file(self) -> QueuedFile | None:
        return ledger().filter(pk=self.pk).first()

    @property
    def state(self) -> str | None:
        """A ``QueuedFile.State``; None when the file is gone."""
        return ledger().filter(pk=self.pk).values_list("state", flat=True).first()

    def ready(self) -> bool:
        state = self.state
        # Until the queue knows, a held file may be one whose transfer is not committed yet.
        is_cancelled = state == State.HELD and self._queued
        return is_cancelled or state not in {State.HELD, State.PENDING, State.TRANSFERRING}

    def get(self, timeout: float | None = None, propagate: bool = True) -> bool:
        """Wait for the end; True if the file is on the remote.

        A failure raises what the transfer raised where it ran in this thread, else
        ``TransferError`` with the reason; with ``propagate=False`` the answer is False instead.
        ``TransferTimeout``, a ``TimeoutError``, is raised after ``timeout`` seconds.
        """
        in_transaction = transaction.get_connection(ledger_database()).in_atomic_block
        if in_transaction and not self._queued and not self.ready():
            raise TransferError(
                "The transfer starts when the transaction is committed; ask for it after that."
            )
        if self._error is None:
            wait_until(self.ready, timeout, "The transfer")
        row = self.queued_file
        if row and row.state == State.TRANSFERRED:
            return True
        if not propagate:
            return False
        raise self._error or TransferError(_why(row))


def _why(row: QueuedFile | None) -> str:
    if row is None or row.state == State.DELETING:
        return "The file was deleted."
    if row.state == State.HELD:
        return "The transfer was cancelled; the file waits for transfer()."
    return row.last_error


class LastResults:
    """The last result of each storage in each thread, as the ancestor's ``storage.result``."""

    def __init__(self) -> None:
        self._local = threading.local()

    def _of_thread(self) -> "weakref.WeakKeyDictionary[Any, TransferResult]":
        if not hasattr(self._local, "results"):
            self._local.results = weakref.WeakKeyDictionary()
        results: weakref.WeakKeyDictionary[Any, TransferResult] = self._local.results
        return results

    def get(self, storage: Any) -> TransferResult | None:
        return self._of_thread().get(storage)

    def put(self, storage: Any, result: TransferResult) -> None:
        self._of_thread()[storage] = result


last_results = LastResults()
