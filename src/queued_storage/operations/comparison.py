"""Compares files with their copies."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..conf import settings
from ..exceptions import VerificationError
from ..files.streams import checksum_of
from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here
from ..reporting.reasons import reason
from ..transfers import copies
from ..transfers.copies import is_copy
from ..transfers.parts import sides_of
from .inventory import anothers
from .passes import BATCH, Step, Tell, nobody


class Kind(StrEnum):
    MISSING = "missing"
    EXTRA = "extra"  # a local file under the name of one that has none
    DIFFERENT = "different"
    UNREADABLE = "unreadable"  # nobody could look


@dataclass(frozen=True, slots=True)
class Finding:
    """In what a copy of a file is not as the ledger has it."""

    pk: int
    alias: str
    name: str
    side: str  # "local" or "remote"
    kind: Kind
    details: str


def verify(
    rows: QueuedFileQuerySet, *, content: bool = False, tell: Tell = nobody
) -> Iterator[Finding]:
    """Compare the ledger with both storages; changes nothing.

    Sizes are compared, and checksums where the remote keeps them; with ``content``, every byte is
    read. A local copy is looked at where this host can see it.
    """
    for batch in rows.exclude(state=State.DELETING).in_batches(BATCH):
        for row in batch:
            yield from _findings(row, content)
            tell(Step(1, row.size))


def _findings(row: QueuedFile, content: bool) -> Iterator[Finding]:
    look = _Look(row, content)
    found = [finding for finding in (look.at_local(), look.at_remote()) if finding]
    if found and look.is_unchanged():
        yield from found


class _Look:
    """At the two copies of one file."""

    def __init__(self, row: QueuedFile, content: bool) -> None:
        self.row = row
        self.content = content

    @property
    def storage(self) -> Any:
        return storage_for(self.row.alias, self.row.task)

    def is_unchanged(self) -> bool:
        """Whether the row still says what it said before the look."""
        columns = ("state", "generation", "is_local", "host", "remote_name")
        same = {column: getattr(self.row, column) for column in columns}
        return ledger().filter(pk=self.row.pk, **same).exists()

    def at_local(self) -> Finding | None:
        try:
            return self._at_local()
        except Exception as error:
            return self._unreadable("local", error)

    def _at_local(self) -> Finding | None:
        row, local = self.row, self.storage.local
        if not is_reachable_from_here(row.host) and row.is_local:
            return None
        is_there = local.exists(row.name)
        if not row.is_local:
            details = "The ledger has no local copy of this file."
            is_extra = is_there and not anothers(self.storage, [row.name])
            return self._finding("local", Kind.EXTRA, details) if is_extra else None
        if not is_there:
            return self._finding("local", Kind.MISSING, f"It was saved on {row.host!r}.")
        if (size := local.size(row.name)) != row.size and not is_copy(self.storage, row):
            return self._different("local", f"{size} bytes", f"{row.size}")
        if self.content and row.checksum:
            with local.open(row.name) as file:
                found = str(checksum_of(file.chunks()))
            if found != row.checksum:
                return self._different("local", found, row.checksum)
        return None

    def at_remote(self) -> Finding | None:
        if self.row.state != State.TRANSFERRED:
            return None  # remains of an attempt may be there
        try:
            return self._at_remote()
        except Exception as error:
            return self._unreadable("remote", error)

    def _at_remote(self) -> Finding | None:
        level = "content" if self.content else "checksum"
        if not self.content and settings.verify == "size":
            level = "size"
        try:
            copies.verify_remote(self.storage, self.row, level, lambda: None)
        except Exception as error:
            name = self.row.remote_name
            if not self.storage.remote.exists(name):
                return self._finding("remote", Kind.MISSING, f"It was called {name!r} there.")
            if isinstance(error, VerificationError):
                return self._finding("remote", Kind.DIFFERENT, reason(error))
            raise
        return None

    def _different(self, side: str, found: str, recorded: str) -> Finding:
        return self._finding(side, Kind.DIFFERENT, f"It has {found}, the ledger {recorded}.")

    def _unreadable(self, side: str, error: Exception) -> Finding:
        return self._finding(side, Kind.UNREADABLE, reason(error, *sides_of(self.row)))

    def _finding(self, side: str, kind: Kind, details: str) -> Finding:
        return Finding(self.row.pk, self.row.alias, self.row.name, side, kind, details)
