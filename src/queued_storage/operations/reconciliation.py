"""Repair differences between the ledger and the copies of its files."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Protocol

from django.db import transaction

from ..exceptions import LeaseLost, LocalFileChanged, LocalFileMissing
from ..files import presence, successors
from ..files.stamps import Stamp, read_unchanging, stamp_of
from ..ledger import copies as further
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here
from ..queues.on_commit import enqueue_on_commit
from ..storage.routes import Routes
from ..transfers import attempt, copies, destinations, intact
from ..transfers.leases import Lease
from . import mirrors, promotion
from .comparison import Difference, verify
from .errands import RESTORE, Errand, restore_from
from .passes import Report, ignore
from .sharing import of_other_storages
from .storages import OperableStorage


def reconcile(
    rows: QueuedFileQuerySet,
    repairs: Collection[str],
    *,
    content: bool = False,
    dry_run: bool = False,
    report: Report = ignore,
) -> Iterator[tuple[Difference, str]]:
    """Compare the copies, and repair the chosen kinds of differences, which ``REPAIRS`` lists.

    Yield each of these differences with the reason why it was not repaired, or an empty string.
    """
    for difference in verify(rows, content=content, report=report):
        kind = f"{difference.kind}-{difference.side}"
        if kind in repairs:
            yield difference, "" if dry_run else repair(kind, difference.pk)


def repair(kind: str, pk: int) -> str:
    """Repair one file; return why that failed, or an empty string."""
    for errand in REPAIRS[kind]:
        if error := errand.run(pk):
            return error
    return ""


def _forget_local(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Record that there is no local copy."""
    if not row.is_local or presence.exists(storage.local, row.name):
        raise LeaseLost(f"{row} has its local copy.")
    _evict_after_check(storage, row, lease, "checksum", None)


def _drop_local(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Delete the local copy, whatever it is, after reading every byte of the remote one."""
    if not row.is_local or not is_reachable_from_here(row.host):
        raise LeaseLost(f"{row} has no local copy on this host.")
    successors.put_in_place(storage.local, row.name, row)
    _evict_after_check(storage, row, lease, "content", stamp_of(storage.local, row.name))


def _evict_after_check(
    storage: OperableStorage, row: QueuedFile, lease: Lease, level: str, seen: Stamp | None
) -> None:
    copies.verify_remote(storage, row, level, lease.progress)
    lease.confirm()
    copies.free_local(storage, row, seen)


def _drop_extra(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Delete a local file that the ledger does not have, if it has the right bytes."""
    if row.is_local:
        raise LeaseLost(f"{row} already has a local copy.")
    if of_other_storages(storage, [row.name]):
        raise FileExistsError(f"The local file {row.name!r} belongs to another storage.")
    found, seen = read_unchanging(storage.local, row.name, lease.progress)
    if (found.size, found.checksum) != (row.size, row.checksum):
        raise FileExistsError(
            f"The local file {row.name!r} has different bytes. Compare the two copies, and delete "
            f"the local file if you don't need it."
        )
    copies.verify_remote(storage, row, "checksum", lease.progress)
    copies.require_other_file(storage, row)
    lease.confirm()
    with transaction.atomic(using=ledger_database()):  # locks the row against a restore
        if not ledger().settle(row):
            raise LeaseLost(f"{row} was changed in the meantime.")
        intact.require_unchanged(storage, row, seen)
        storage.local.delete(row.name)


def _transfer_again(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Transfer the local copy again, overwriting the remote one."""
    if not row.is_local or not is_reachable_from_here(row.host):
        raise LocalFileMissing(f"This host has no local copy of {row.name!r}.")
    destinations.require_same_place(storage, row)
    successors.put_in_place(storage.local, row.name, row)
    found, _seen = read_unchanging(storage.local, row.name, lease.progress)
    if intact.is_changed(storage.local, row, found):
        raise LocalFileChanged(
            f"The local copy of {row.name!r} was changed, so it is not what the remote had. "
            f"{attempt.ADVICE}"
        )
    routes = Routes(row.alias, storage.cache_prefix)
    routes.forget(row.name)
    if not ledger().retransfer(row, found):
        raise LeaseLost(f"{row} was changed in the meantime.")
    routes.forget(row.name)
    enqueue_on_commit(row.alias, storage.queue_for(row.host), row.pk)


def _copy_again(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Let the copies of a claimed file be made again that are missing, or that differ when all
    bytes are read."""
    found = list(mirrors.differences(storage, row, "content"))
    places = [each.place for each in found if each.kind != "unreadable"]
    lease.confirm()
    further.copies().want(row, places)
    if not ledger().settle(row):
        raise LeaseLost(f"{row} was changed in the meantime.")


class Repair(Protocol):
    def run(self, pk: int) -> str:
        """Repair one file; return why that failed, or an empty string."""


class MissingLocal:
    """Has reads use the remote copy, after a look at it."""

    def run(self, pk: int) -> str:
        row = ledger().filter(pk=pk).first()
        if row and row.state in promotion.UNTRANSFERRED:
            return promotion.promote(row)
        return Errand(_forget_local).run(pk)


class CopyAgain:
    """Lets copies be made again that are missing or different. All copies of a file that is being
    transferred again are made then."""

    def run(self, pk: int) -> str:
        is_transferred_again = [State.PENDING, State.TRANSFERRING]
        if ledger().filter(pk=pk, state__in=is_transferred_again).exists():
            return ""
        return Errand(_copy_again).run(pk)


class LocalFromMirror:
    """Restores the local copy from the first mirror that has the right bytes, if there is none."""

    def run(self, pk: int) -> str:
        row = ledger().filter(pk=pk).first()
        if row is None or row.is_local:
            return ""
        error = ""
        for copy in further.copies().verified_of(pk, row.generation):
            error = Errand(partial(_restore_from_copy, copy)).run(pk)
            if not error:
                break
        return error


def _restore_from_copy(
    copy: further.Copy, storage: OperableStorage, row: QueuedFile, lease: Lease
) -> None:
    its = further.at_copy(row, copy)
    mirror = storage.with_remote_of(its)
    destinations.require_same_place(mirror, its)
    restore_from(mirror, row, lease, copy.remote_name)


# What repairs a difference, by its kind and side
REPAIRS: dict[str, tuple[Repair, ...]] = {
    "missing-local": (MissingLocal(),),
    "different-local": (Errand(_drop_local), RESTORE),
    "extra-local": (Errand(_drop_extra),),
    "missing-remote": (LocalFromMirror(), Errand(_transfer_again)),
    "different-remote": (LocalFromMirror(), Errand(_transfer_again)),
    "missing-mirror": (CopyAgain(),),
    "different-mirror": (CopyAgain(),),
}
