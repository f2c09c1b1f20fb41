"""The removal of copies, by an eviction or by the purge of a deleted file."""

from functools import cached_property

from ..conf import settings
from ..exceptions import LeaseLost, VerificationError
from ..files import readcache
from ..files.stamps import stamp_of
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from ..uploaders import Uploader
from . import copies, intact
from .leases import Lease
from .outcomes import Outcome
from .parts import TransferringStorage


def resume(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> Outcome:
    """Continue with a transferred file whose last worker died.

    If it was evicting the file, the eviction follows. A restore left an unfinished file, which
    nobody reads; a repair can be run again.
    """
    is_eviction = row.attempts > 1  # otherwise the local copy may be the only good one
    if not row.is_local or not is_eviction:
        lease.ledger.settle(row)
        return Outcome.SETTLED
    copies.verify_remote(storage, row, settings.verify, lease.progress)
    lease.confirm()
    return Outcome.READY_TO_EVICT


def evict(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> Outcome:
    """Delete the local copy of a transferred file, unless it was changed since."""
    seen = lease.intact
    if seen is None or stamp_of(storage.local, row.name) != seen:
        seen = intact.require_intact(storage, row, lease.progress)
    copies.free_local(storage, row, seen)
    return Outcome.EVICTED


def purge(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> Outcome:
    """Delete both copies of a deleted file, and free its name."""
    _Purge(storage, row, lease).run()
    readcache.forget(row)
    return Outcome.DELETED


class _Purge:
    def __init__(self, storage: TransferringStorage, row: QueuedFile, lease: Lease) -> None:
        self._storage = storage
        self._row = row
        self._lease = lease
        # Otherwise the name was deleted without ever having had a row.
        self._was_saved = bool(row.checksum or row.size)

    @cached_property
    def _uploader(self) -> Uploader:
        """The remote's uploader; a file that was never sent does not need one."""
        return self._storage.uploader

    def run(self) -> None:
        row = self._row
        remote_name = row.remote_name or self._name_of_remains() or self._name_of_found()
        if remote_name and not self._is_of_another_file(remote_name):
            self._remove_remote(remote_name)
        self._lease.require()
        copies.drop_local(self._storage, row.name, row)
        if not self._lease.ledger.remove_tombstone(row):
            raise LeaseLost(f"{row} is being purged by another worker.")

    def _remove_remote(self, remote_name: str) -> None:
        self._lease.confirm()  # without a claim, the object may be a newer file's
        if self._was_saved and not self._row.transferred_at:
            self._uploader.forget_unfinished(remote_name)
        self._uploader.remove(remote_name)

    def _is_of_another_file(self, remote_name: str) -> bool:
        """Return whether the object is the copy of another file; a saved file has its own."""
        if self._was_saved:
            return False
        files = self._lease.ledger.filter(alias=self._row.alias).exclude(pk=self._row.pk)
        return files.with_remote_name(remote_name).exists()

    def _name_of_remains(self) -> str:
        """Return the name to which an interrupted attempt sent the file; "" if there is none."""
        remains = self._row.remains
        is_there = remains and copies.are_remains(self._uploader, self._row, remains)
        return self._row.name if is_there else ""

    def _name_of_found(self) -> str:
        """Return the name under which a foreign task stored the file; "" if it did not.

        Any other object with that name stays: it may not be this file's.
        """
        row, storage = self._row, self._storage
        if not storage.foreign_task or not storage.remote.exists(row.name):
            return ""
        found = copies.Upload(row.name, Content(row.size, row.checksum), is_found=True)
        try:
            copies.verify_upload(self._uploader, found, self._lease.progress)
        except VerificationError:
            return ""
        return row.name
