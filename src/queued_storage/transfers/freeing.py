"""Evicts local copies until there is room, those first that were not read for the longest time."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from ..exceptions import LeaseLost
from ..files import lastread
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..signals import file_evicted
from . import leases, removal, work
from .candidates import Candidate, Candidates
from .parts import TransferringStorage, sides_of, storage_of

AGAIN_AFTER = 600.0  # seconds after which a file whose eviction failed is tried again
MAX_FAILURES = 5  # in a row, which end a pass: the remote may be the reason


@dataclass
class Found:
    """What was evicted of the local copies, and why others were not."""

    young_bytes: int = 0
    uncopied_bytes: int = 0
    open_bytes: int = 0
    failed_bytes: int = 0
    freed_bytes: int = 0
    freed_files: int = 0
    is_closed: bool = False  # whether the remote is closed, so that nothing can be evicted


class Freeing:
    """Makes room in the local storage of one storage."""

    def __init__(
        self, storage: TransferringStorage, *, asks_remote: bool, until: float = float("inf")
    ) -> None:
        """``until`` is when to end, as ``time.monotonic()`` says.

        Unless ``asks_remote``, what the ledger says of the copies counts.
        """
        self.storage = storage
        self.found = Found()
        self._asks_remote = asks_remote
        self._until = until
        self._failures_in_row = 0
        # Files that could not be evicted
        self._passed_over = _recently_failed()

    def free(self, wanted: int, keep_on: Callable[[], bool] = lambda: True) -> Found:
        """Evict until so many bytes are free, or nothing more can be evicted."""
        found = self.found
        candidates = Candidates(self.storage, self._passed_over, self._until)
        try:
            while found.freed_bytes < wanted and keep_on() and not self._is_late:
                candidate = candidates.next(wanted - found.freed_bytes)
                if candidate is None:
                    break
                self._evict(candidate)
                if found.is_closed or self._failures_in_row >= MAX_FAILURES:
                    break
        finally:
            candidates.close()
            found.young_bytes = candidates.kept.young
            found.uncopied_bytes = candidates.kept.uncopied
            found.failed_bytes = _failed_bytes(self.storage.alias)
        return found

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self._until

    def _evict(self, candidate: Candidate) -> None:
        self._passed_over.add(candidate.pk)  # unless it is evicted
        if lastread.is_open(self.storage.local, candidate.name):
            self.found.open_bytes += candidate.size
            return
        row = ledger().claim_settled(candidate.pk, evicts=True)
        if row is None:
            return
        with leases.keep(row) as lease:
            try:
                storage = storage_of(row.alias, row.task).with_remote_of(row)
                removal.evict_settled(storage, row, lease, asks_remote=self._asks_remote)
            except LeaseLost:
                _release(row)
                return
            except removal.RemoteClosed:
                self.found.is_closed = True
                _release(row)
                return
            except Exception as error:
                self._on_failure(row, error)
                return
            except BaseException:
                ledger().settle(row)
                raise
        self.found.freed_bytes += row.size
        self.found.freed_files += 1
        self._failures_in_row = 0
        work.send(file_evicted, storage, row)

    def _on_failure(self, row: QueuedFile, error: Exception) -> None:
        """Record why a file was not evicted, and leave it alone for a while."""
        text = reason(error, *sides_of(row))
        logger.info("%s: %s", row, text, extra=fields_of(row))
        _failed[row.pk] = _Failed(row.alias, row.size, time.monotonic() + AGAIN_AFTER)
        self._failures_in_row += 1
        _release(row, text)


def _release(row: QueuedFile, error: str = "") -> None:
    """Give the claim back; if the row has changed, a worker finds it."""
    with suppress(Exception):
        if not ledger().settle(row, error):
            ledger().release_claim(row)


class _Failed(NamedTuple):
    alias: str
    size: int
    until: float


_failed: dict[int, _Failed] = {}  # files whose eviction failed, which are left alone for a while


def _recently_failed() -> set[int]:
    now = time.monotonic()
    for pk, failed in list(_failed.items()):
        if failed.until < now:
            _failed.pop(pk, None)
    return set(_failed)


def _failed_bytes(alias: str) -> int:
    return sum(each.size for each in list(_failed.values()) if each.alias == alias)
