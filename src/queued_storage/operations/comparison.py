"""Compare the ledger with the copies of its files."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from ..conf import settings
from ..exceptions import VerificationError
from ..files import presence, successors, volumes
from ..files.stamps import read_unchanging
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here
from ..reporting.reasons import reason
from ..transfers import copies, destinations, intact
from ..transfers.parts import sides_of
from . import mirrors
from .passes import Report, Step, each, ignore
from .sharing import of_other_storages
from .storages import OperableStorage, storage_of


class Kind(StrEnum):
    """How a copy differs from the ledger."""

    MISSING = "missing"
    EXTRA = "extra"  # a local file exists, but the ledger has no local copy
    DIFFERENT = "different"
    UNREADABLE = "unreadable"  # the copy could not be checked


@dataclass(frozen=True, slots=True)
class Difference:
    """A copy that differs from the ledger."""

    pk: int
    alias: str
    name: str
    side: str  # "local", "remote" or "mirror"
    kind: Kind
    details: str


def verify(
    rows: QueuedFileQuerySet, *, content: bool = False, report: Report = ignore
) -> Iterator[Difference]:
    """Compare the ledger with both storages, without changing anything.

    Sizes are compared, and checksums if the remote stores them. With ``content``, every byte is
    read. Local copies on other hosts are skipped.
    """
    for row in each(rows.exclude(state=State.DELETING)):
        yield from _differences(row, content)
        report(Step(1, row.size))


def _differences(row: QueuedFile, content: bool) -> Iterator[Difference]:
    comparison = _Comparison(row, content)
    found = [each for each in (comparison.of_local(), comparison.of_remote()) if each]
    found += comparison.of_mirrors()
    if found and comparison.is_current():
        yield from found


class _Comparison:
    """A comparison of one row with its two copies."""

    def __init__(self, row: QueuedFile, content: bool) -> None:
        self.row = row
        self.content = content

    @cached_property
    def storage(self) -> OperableStorage:
        return storage_of(self.row)

    def is_current(self) -> bool:
        """Whether the row hasn't changed since it was read."""
        columns = ("state", "generation", "is_local", "host", "remote_name")
        same = {column: getattr(self.row, column) for column in columns}
        return ledger().filter(pk=self.row.pk, **same).exists()

    def of_local(self) -> Difference | None:
        try:
            return self._of_local()
        except Exception as error:
            return self._unreadable("local", error)

    def _of_local(self) -> Difference | None:
        row, local = self.row, self.storage.local
        if not is_reachable_from_here(row.host) and row.is_local:
            return None
        if row.is_local:
            volumes.require(row.alias, local)
        name = successors.current_name(local, row.name, row)
        exists = presence.exists(local, name)
        if not row.is_local:
            is_extra = exists and not of_other_storages(self.storage, [row.name])
            details = "A local file exists, but the ledger has no local copy."
            return self._difference("local", Kind.EXTRA, details) if is_extra else None
        if not exists:
            details = f"The file was saved on the host {row.host!r}."
            return self._difference("local", Kind.MISSING, details)
        if not self.content and local.size(name) == row.size:
            return None
        found, _stamp = read_unchanging(local, name)
        if not intact.is_changed(local, row, found):
            return None
        if found.size != row.size:
            return self._different(f"{found.size:,} bytes", f"{row.size:,}")
        if not row.checksum:
            details = "The copy was modified after the ledger has recorded it without a checksum."
            return self._difference("local", Kind.DIFFERENT, details)
        return self._different(f"the checksum {found.checksum}", row.checksum)

    def of_remote(self) -> Difference | None:
        if self.row.state != State.TRANSFERRED:
            return None  # an earlier attempt may have left a partial file
        try:
            return self._of_remote()
        except Exception as error:
            return self._unreadable("remote", error)

    def _of_remote(self) -> Difference | None:
        name = self.row.remote_name
        destinations.require_same_place(self.storage, self.row)
        try:
            copies.verify_remote(self.storage, self.row, self._level(), lambda: None)
        except Exception as error:
            if not self.storage.uploader.exists(name):
                details = f"Its name on the remote is {name!r}."
                return self._difference("remote", Kind.MISSING, details)
            if isinstance(error, VerificationError):
                return self._difference("remote", Kind.DIFFERENT, reason(error))
            raise
        return None

    def of_mirrors(self) -> list[Difference]:
        if self.row.state != State.TRANSFERRED:
            return []
        try:
            found = mirrors.differences(self.storage, self.row, self._level())
            return [self._difference("mirror", Kind(each.kind), each.details) for each in found]
        except Exception as error:
            return [self._unreadable("mirror", error)]

    def _level(self) -> str:
        if self.content:
            return "content"
        return "size" if settings.verify == "size" else "checksum"

    def _different(self, found: str, recorded: str) -> Difference:
        details = f"The copy has {found}, but the ledger has {recorded}."
        return self._difference("local", Kind.DIFFERENT, details)

    def _unreadable(self, side: str, error: Exception) -> Difference:
        return self._difference(side, Kind.UNREADABLE, reason(error, *sides_of(self.row)))

    def _difference(self, side: str, kind: Kind, details: str) -> Difference:
        return Difference(self.row.pk, self.row.alias, self.row.name, side, kind, details)
