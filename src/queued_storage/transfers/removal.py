"""The removal of copies, by an eviction or by the purge of a deleted file."""

from collections.abc import Iterator

from ..conf import settings
from ..exceptions import LeaseLost, LocalFileChanged, TransferError
from ..files import readcache, volumes
from ..files.stamps import stamp_of
from ..ledger import copies as further
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here
from . import copies, destinations, gatekeeping, intact
from .disposal import Removal
from .gates import gates
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
    copies.require_on_mirrors(storage, row)
    copies.verify_remote(storage, row, settings.verify, lease.progress)
    lease.confirm()
    return Outcome.READY_TO_EVICT


def evict(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> Outcome:
    """Delete the local copy of a transferred file, unless it was changed since."""
    destinations.require_same_place(storage, row)
    copies.require_on_mirrors(storage, row)
    seen = lease.intact
    if seen is None or stamp_of(storage.local, row.name) != seen:
        seen = intact.require_intact(storage, row, lease.progress)
    try:
        copies.free_local(storage, row, seen)
    except LocalFileChanged:
        # A save that removes its draft changes the inode, too: the bytes decide.
        copies.free_local(storage, row, intact.require_intact(storage, row, lease.progress))
    return Outcome.EVICTED


def closed_place(storage: TransferringStorage, row: QueuedFile) -> str:
    """Return a place that the work on a claimed row needs, and that is closed; "" if there is none.

    Claims know only whether the present remote of a storage is open.
    """
    closed = {place for alias, place in gates.closed_places() if alias == row.alias}
    if not closed:
        return ""
    if storage.other_place in closed:
        return storage.remote_place.description
    if row.state == State.DELETING:
        for copy in further.copies().of(row).filter(place__in=closed):
            return storage.with_remote_of(copy).remote_place.description
    return ""


def evict_settled(
    storage: TransferringStorage, row: QueuedFile, lease: Lease, *, asks_remote: bool = True
) -> None:
    """Delete the local copy of a transferred file that was claimed for that.

    Unless ``asks_remote``, what the ledger says of the remote copy counts. ``RemoteClosed`` is
    raised while the remote cannot be read.
    """
    if not row.is_local or not is_reachable_from_here(row.host):
        raise LeaseLost(f"{row} has no local copy on this host.")
    volumes.require(row.alias, storage.local)
    if gates.is_closed(row.alias):
        raise RemoteClosed(
            f"The remote of {row.alias!r} is closed, so the copy there cannot be verified. Run "
            f"'manage.py queued_storage remotes' to see why."
        )
    copies.require_on_mirrors(storage, row)
    if asks_remote:
        copies.verify_remote(storage, row, settings.verify, lease.progress)
    seen = intact.require_intact(storage, row, lease.progress)
    lease.confirm()
    copies.free_local(storage, row, seen)


class RemoteClosed(TransferError):
    """The remote copy cannot be verified, or read, now."""


def purge(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> Outcome:
    """Delete all copies of a deleted file, and free its name."""
    if not gatekeeping.discard(storage, row.pk):
        raise TransferError(f"The unpublished content of {row.name!r} is on another host.")
    _purge_further_copies(storage, row, lease)
    Removal(storage, row, lease).run()
    lease.require()
    copies.drop_local(storage, row.name, row, even_unconfirmed=True)
    if not lease.ledger.remove_tombstone(row):
        raise LeaseLost(f"{row} is being purged by another worker.")
    readcache.forget(row)
    return Outcome.DELETED


def _purge_further_copies(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> None:
    def original() -> Iterator[bytes]:
        return storage.uploader.read_back(row.remote_name)

    for copy in further.copies().of(row):
        if not further.copies().claim_to_purge(copy):
            raise TransferError(f"Another worker is making or removing a copy of {row.name!r}.")
        its = further.at_copy(row, copy)
        known = original if row.is_object_its_own else None
        try:
            Removal(storage.with_remote_of(its), its, lease, known).run()
        except BaseException:
            further.copies().release(copy)
            raise
        further.copies().filter(pk=copy.pk).delete()
