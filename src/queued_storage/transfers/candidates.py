"""Finds the local copies to evict, those first that were not read for the longest time."""

import heapq
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import BooleanField, ExpressionWrapper, Q

from ..files import lastread
from ..ledger import copies as further
from ..ledger.bindings import digest_of
from ..ledger.database import ledger
from ..ledger.sql.clock import seconds_from_now
from ..ledger.states import State
from ..runtime.forks import after_fork
from .parts import TransferringStorage

CHUNK = 500  # rows that are looked at together
MOST = 10_000  # candidates of one look
SHARE = 16  # of all files, this part is found at most, unless more are needed
REMEMBER_FROM = 1.0  # seconds that a look takes at least, for its candidates to be remembered
REMEMBER_FOR = 3600.0  # seconds


class Candidate(NamedTuple):
    """A file that can be evicted; the one that sorts last was read longest ago."""

    unread: float  # seconds since 1970, negative
    pk: int
    size: int
    name: str


@dataclass
class Kept:
    """The bytes of files that are no candidates although they are on the remote, and why."""

    young: int = 0
    uncopied: int = 0


@dataclass
class _Seen:
    """What a process has seen of a local storage."""

    candidates: list[Candidate] = field(default_factory=list)  # sorted
    last: int = 0  # the key of the row that was looked at last; 0 if all were
    kept: Kept = field(default_factory=Kept)  # of the rows up to that one
    kept_of_all: Kept | None = None  # when all were looked at
    seconds: float = 0  # that the look took
    begun_at: float = field(default_factory=time.monotonic)

    @property
    def is_worth_keeping(self) -> bool:
        is_costly = self.last > 0 or self.seconds >= REMEMBER_FROM
        return is_costly and time.monotonic() - self.begun_at < REMEMBER_FOR


class Candidates:
    """The files of one local storage that can be evicted.

    A look reads the rows of all local copies, and when each was last read. If that takes long, this
    process remembers what it has found, and uses that up before it looks again. A look that has not
    enough time for all is continued by the next one.
    """

    def __init__(
        self, storage: TransferringStorage, left_out: Collection[int], until: float
    ) -> None:
        """``left_out`` are the keys of files that cannot be evicted; it may grow.

        ``until`` is when to end, as ``time.monotonic()`` says. A look takes half of the time that
        is left, or longer until it has found a file.
        """
        self._storage = storage
        self._left_out = left_out
        self._until = until
        self._copies = _Copies(storage)
        known = _seen.pop(storage.alias, None)
        self._seen = known if known and known.is_worth_keeping else _Seen()
        self._is_fresh = False

    def close(self) -> None:
        """Remember what was found, if that is worth it."""
        if self._seen.is_worth_keeping:
            _seen[self._storage.alias] = self._seen

    @property
    def kept(self) -> Kept:
        return self._seen.kept_of_all or self._seen.kept

    def next(self, wanted: int) -> Candidate | None:
        """Return the file that was not read for the longest time, of those that are known; look for
        more, of ``wanted`` bytes, if none are."""
        while True:
            while self._seen.candidates:
                candidate = self._seen.candidates.pop()
                if self._is_fresh or self._is_unread(candidate):
                    return candidate
            if not self._look(wanted):
                return None

    def _is_unread(self, candidate: Candidate) -> bool:
        """Whether a file was certainly not read, or saved again, since it was found."""
        if candidate.pk in self._left_out:
            return False
        try:
            read = lastread.last_read(self._storage.local, candidate.name)
        except OSError:
            return False
        return read is not None and -read >= candidate.unread

    def _look(self, wanted: int) -> bool:
        """Return whether there are candidates again."""
        began_at = self._seen.last
        found = self._looked(wanted)
        if not found and began_at and not self._seen.last:
            found = self._looked(wanted)  # at those before
        self._seen.candidates = sorted(found)
        self._is_fresh = True
        return bool(found)

    def _looked(self, wanted: int) -> list[Candidate]:
        seen, started = self._seen, time.monotonic()
        if not seen.last:
            seen.seconds, seen.begun_at = 0, started
        enough = started + (self._until - started) / 2
        found: list[Candidate] = []
        size = number = 0
        for rows in self._chunks():
            number += len(rows)
            for candidate in self._candidates(rows):
                heapq.heappush(found, candidate)
                size += candidate.size
                while len(found) > MOST or (
                    len(found) * SHARE > number and size - found[0].size >= wanted
                ):
                    size -= heapq.heappop(found).size
            now = time.monotonic()
            if now >= self._until or (found and now >= enough):
                break
        else:
            seen.last, seen.kept_of_all, seen.kept = 0, seen.kept, Kept()
        seen.seconds += time.monotonic() - started
        return found

    def _candidates(self, rows: list["_Row"]) -> Iterator[Candidate]:
        local, min_age = self._storage.local, self._storage.limits.min_age
        kept = self._seen.kept
        uncopied = self._copies.missing(rows)
        for row in rows:
            if row.pk in uncopied:
                kept.uncopied += row.size
                continue
            if row.pk in self._left_out:
                continue
            try:
                read = lastread.last_read(local, row.name)
            except OSError:  # it is not there, or still waits to be put in place
                continue
            if row.is_young or (read is not None and lastread.is_younger(read, min_age)):
                kept.young += row.size
                continue
            if read is None:
                read = row.transferred_at.timestamp() if row.transferred_at else 0.0
            yield Candidate(-read, row.pk, row.size, row.name)

    def _chunks(self) -> Iterator[list["_Row"]]:
        """The files that a worker may evict, as far as the ledger knows."""
        here = ledger().filter(alias=self._storage.alias).with_local_copy().workable_here()
        young = Q(saved_at__gt=seconds_from_now(-self._storage.limits.min_age))
        rows: Any = (
            ledger()
            .filter(state=State.TRANSFERRED, lease_token="")
            .exclude(verified="")
            .annotate(is_young=ExpressionWrapper(young, output_field=BooleanField()))
        )
        # An index has the keys in their order. With more conditions, PostgreSQL may sort all rows,
        # and MariaDB does with one that is true of all of them.
        keys = here.order_by("pk").values_list("pk", flat=True)
        while pks := list(
            (keys.filter(pk__gt=last) if (last := self._seen.last) else keys)[:CHUNK]
        ):
            self._seen.last = pks[-1]
            found = rows.filter(pk__in=pks).values_list(*_Row._fields)
            yield [_Row(*values) for values in found]


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


_seen: dict[str, _Seen] = {}  # by storage
after_fork(_seen.clear)
