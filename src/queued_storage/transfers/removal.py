"""The removal of copies, by an eviction or by the purge of a deleted file."""

from functools import cached_property

from ..conf import settings
from ..exceptions import LeaseLost, LocalFileChanged
from ..files import presence, readcache, successors
from ..files.stamps import stamp_of
from ..ledger.models import QueuedFile
from ..reporting.logs import logger
from ..uploaders import Uploader
from . import copies, destinations, intact
from .copies import Likeness
from .leases import Lease
from .outcomes import Outcome
from .owners import Others
from .parts import TransferringStorage
from .writers import PlaceMarker


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
    destinations.require_same_place(storage, row)
    seen = lease.intact
    if seen is None or stamp_of(storage.local, row.name) != seen:
        seen = intact.require_intact(storage, row, lease.progress)
    try:
        copies.free_local(storage, row, seen)
    except LocalFileChanged:
        # A save that removes its draft changes the inode, too: the bytes decide.
        copies.free_local(storage, row, intact.require_intact(storage, row, lease.progress))
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
        remote_name = row.object_name
        if remote_name:
            destinations.require_same_place(self._storage, row)
            PlaceMarker(self._storage).require_own()
        if remote_name and self._is_its_own(remote_name):
            self._remove_remote(remote_name)
        self._lease.require()
        copies.drop_local(self._storage, row.name, row, even_unconfirmed=True)
        if not self._lease.ledger.remove_tombstone(row):
            raise LeaseLost(f"{row} is being purged by another worker.")

    def _remove_remote(self, remote_name: str) -> None:
        self._lease.confirm()  # without a claim, the object may be a newer file's
        if self._was_saved and not self._row.transferred_at:
            self._uploader.forget_unfinished(remote_name)
        self._uploader.remove(remote_name)

    def _is_its_own(self, remote_name: str) -> bool:
        """Return whether the object is this file's, and no other file of the ledger needs it."""
        row, others = self._row, Others(self._row, self._storage.remote)
        if not row.unconfirmed and self._was_saved:
            return not others.have(remote_name)
        # The file may not have reached the remote, or was never sent.
        is_proved = not row.unconfirmed or self._is_proved(remote_name)
        return is_proved and not others.have_under_any_name(remote_name)

    def _is_proved(self, remote_name: str) -> bool:
        """Return whether the local copy proves that an unconfirmed upload made the object."""
        row, storage = self._row, self._storage
        if not self._uploader.exists(remote_name):
            self._uploader.forget_unfinished(remote_name)
            return False
        sent = row.sending
        is_current = sent is not None and (sent.size, sent.checksum) == (row.size, row.checksum)
        name = successors.current_name(storage.local, row.name, row)
        if is_current and presence.exists(storage.local, name):
            with storage.local.open(name) as file:
                found = copies.likeness(self._uploader, row, remote_name, file)
            if found is Likeness.SAME:
                return True
            if found is Likeness.BEGINNING and not self._uploader.replaces:
                return True
        logger.warning(
            "%s is deleted, but not the object %r on the remote: it isn't known whether an "
            "interrupted upload of this file made it.",
            row,
            remote_name,
        )
        return False
