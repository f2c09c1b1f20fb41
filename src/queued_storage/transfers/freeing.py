"""Evicts local copies until there is room, those first that were not read for the longest time."""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import BooleanField, ExpressionWrapper, Q

from ..exceptions import LeaseLost
from ..files import lastread
from ..ledger import copies as further
from ..ledger.bindings import digest_of
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.sql.clock import seconds_from_now
from ..ledger.states import State
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..signals import file_evicted
from . import leases, removal, work
from .parts import TransferringStorage, sides_of, storage_of

CHUNK = 1000  # rows that are looked at together
MOST = 10_000  # files that are evicted before the others are looked at again
AGAIN_AFTER = 600.0  # seconds after which a file whose eviction failed is tried again
MAX_FAILURES = 5  # in a row, which end a pass: the remote may be the reason


class Candidate(NamedTuple):
    """A file that can be evicted; the one that sorts last was read longest ago."""

    unread: float  # seconds since 1970, negative
    pk: int
    size: int
    name: str


@dataclass
class Found:
    """What a look at the local copies has found, and what was evicted of it."""

    oldest: list[Candidate] = field(default_factory=list)
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
        self._copies = _Copies(storage)
        self._failures_in_row = 0
        self._open: set[int] = set()  # files that are read now
        self._passed_over: set[int] = set()  # these, and others that could not be evicted

    def free(self, wanted: int, keep_on: Callable[[], bool] = lambda: True) -> Found:
        """Evict until so many bytes are free, or nothing more can be evicted."""
        while self.found.freed_bytes < wanted and keep_on() and not self._is_late:
            before = self.found.freed_files, len(self._passed_over)
            self.look(wanted - self.found.freed_bytes)
            for candidate in sorted(self.found.oldest, reverse=True):
                if self.found.freed_bytes >= wanted or self._is_late or not keep_on():
                    break
                self._evict(candidate)
                if self.found.is_closed or self._failures_in_row >= MAX_FAILURES:
                    return self.found
            if (self.found.freed_files, len(self._passed_over)) == before:
                break
        return self.found

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self._until

    # Looking

    def look(self, wanted: int) -> Found:
        """Find the files to evict for so many bytes, and why others are not evicted."""
        found = self.found
        found.oldest = []
        found.young_bytes = found.uncopied_bytes = found.open_bytes = found.failed_bytes = 0
        size = 0
        for candidate in self._candidates():
            heapq.heappush(found.oldest, candidate)
            size += candidate.size
            while found.oldest and (
                size - found.oldest[0].size >= wanted or len(found.oldest) > MOST
            ):
                size -= heapq.heappop(found.oldest).size
        return found

    def _candidates(self) -> Iterator[Candidate]:
        local, min_age = self.storage.local, self.storage.limits.min_age
        failed = _recently_failed()
        for rows in self._chunks():
            uncopied = self._copies.missing(rows)
            for row in rows:
                if row.pk in uncopied:
                    self.found.uncopied_bytes += row.size
                    continue
                if row.pk in failed:
                    self.found.failed_bytes += row.size
                    continue
                if row.pk in self._passed_over:
                    self.found.open_bytes += row.size if row.pk in self._open else 0
                    continue
                try:
                    read = lastread.last_read(local, row.name)
                except OSError:  # it is not there, or still waits to be put in place
                    continue
                if row.is_young or (read is not None and lastread.is_younger(read, min_age)):
                    self.found.young_bytes += row.size
                    continue
                if read is None:
                    read = row.transferred_at.timestamp() if row.transferred_at else 0.0
                yield Candidate(-read, row.pk, row.size, row.name)

    def _chunks(self) -> Iterator[list["_Row"]]:
        """The files that a worker may evict, as far as the ledger knows, in the order of an
        index."""
        young = Q(saved_at__gt=seconds_from_now(-self.storage.limits.min_age))
        rows: Any = (
            ledger()
            .filter(alias=self.storage.alias, state=State.TRANSFERRED, lease_token="")
            .exclude(verified="")
            .with_local_copy()
            .workable_here()
            .annotate(is_young=ExpressionWrapper(young, output_field=BooleanField()))
            .order_by("pk")
        )
        last = 0
        while not self._is_late:
            chunk = [
                _Row(*values)
                for values in rows.filter(pk__gt=last).values_list(*_Row._fields)[:CHUNK]
            ]
            if not chunk:
                return
            yield chunk
            last = chunk[-1].pk

    # Evicting

    def _evict(self, candidate: Candidate) -> None:
        if lastread.is_open(self.storage.local, candidate.name):
            self.found.open_bytes += candidate.size
            self._open.add(candidate.pk)
            self._passed_over.add(candidate.pk)
            return
        row = ledger().claim_settled(candidate.pk, evicts=True)
        if row is None:
            self._passed_over.add(candidate.pk)
            return
        with leases.keep(row) as lease:
            try:
                storage = storage_of(row.alias, row.task).with_remote_of(row)
                removal.evict_settled(storage, row, lease, asks_remote=self._asks_remote)
            except LeaseLost:
                self._passed_over.add(row.pk)
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
        _failed[row.pk] = time.monotonic() + AGAIN_AFTER
        self._passed_over.add(row.pk)
        self.found.failed_bytes += row.size
        self._failures_in_row += 1
        _release(row, text)


class _Row(NamedTuple):
    pk: int
    name: str
    size: int
    generation: int
    place: int | None
    transferred_at: Any
    is_young: bool


class _Copies:
    """Tells which files do not have all the copies that are needed before they are evicted."""

    def __init__(self, storage: TransferringStorage) -> None:
        self._alias = storage.alias
        is_first_enough = storage.evict_after == "first"
        mirrors = [] if is_first_enough else storage.with_each_mirror
        self._wanted = {each.remote_place.digest for each in mirrors}

    def missing(self, rows: Iterable[_Row]) -> set[int]:
        if not self._wanted:
            return set()
        wanted = {
            (row.pk, place)
            for row in rows
            for place in self._wanted - {digest_of(self._alias, row.place)}
        }
        generations = {row.pk: row.generation for row in rows}
        made = further.copies().filter(
            file__in=list(generations), place__in=self._wanted, state=further.CopyState.TRANSFERRED
        )
        for pk, place, generation in made.values_list("file", "place", "generation"):
            if generations[pk] == generation:
                wanted.discard((pk, place))
        return {pk for pk, _place in wanted}


def _release(row: QueuedFile, error: str = "") -> None:
    """Give the claim back; if the row has changed, a worker finds it."""
    with suppress(Exception):
        if not ledger().settle(row, error):
            ledger().release_claim(row)


_failed: dict[int, float] = {}  # files whose eviction failed, and until when they are left alone


def _recently_failed() -> set[int]:
    now = time.monotonic()
    for pk, until in list(_failed.items()):
        if until < now:
            _failed.pop(pk, None)
    return set(_failed)
