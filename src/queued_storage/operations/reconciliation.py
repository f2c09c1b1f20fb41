"""Repair differences between the ledger and the copies of its files."""

from collections.abc import Collection, Iterator

from django.db import transaction

from ..exceptions import LeaseLost, LocalFileMissing
from ..files import localfiles
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import is_reachable_from_here
from ..queues.on_commit import enqueue_on_commit
from ..storage.routes import Routes
from ..transfers import copies
from ..transfers.copies import is_copy
from ..transfers.leases import Lease
from .comparison import Difference, verify
from .errands import RESTORE, Errand
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
    if not row.is_local or localfiles.exists(storage.local, row.name):
        raise LeaseLost(f"{row} has its local copy.")
    _evict_after_check(storage, row, lease, "checksum")


def _drop_local(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Delete the local copy after reading every byte of the remote one."""
    if not row.is_local or not is_reachable_from_here(row.host):
        raise LeaseLost(f"{row} has no local copy on this host.")
    _evict_after_check(storage, row, lease, "content")


def _evict_after_check(storage: OperableStorage, row: QueuedFile, lease: Lease, level: str) -> None:
    copies.verify_remote(storage, row, level, lease.progress)
    lease.confirm()
    copies.free_local(storage, row)


def _drop_extra(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Delete a local file that the ledger does not have, if it has the right bytes."""
    if row.is_local:
        raise LeaseLost(f"{row} already has a local copy.")
    if of_other_storages(storage, [row.name]):
        raise FileExistsError(f"The local file {row.name!r} belongs to another storage.")
    if not is_copy(storage, row):
        raise FileExistsError(
            f"The local file {row.name!r} has different bytes. Compare the two copies, and delete "
            f"the local file if you don't need it."
        )
    copies.verify_remote(storage, row, "checksum", lease.progress)
    lease.confirm()
    with transaction.atomic(using=ledger_database()):  # locks the row against a restore
        if not ledger().settle(row):
            raise LeaseLost(f"{row} was changed in the meantime.")
        storage.local.delete(row.name)


def _transfer_again(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    """Transfer the local copy again, overwriting the remote one."""
    if not row.is_local or not is_reachable_from_here(row.host) or not is_copy(storage, row):
        raise LocalFileMissing(f"This host has no intact local copy of {row.name!r}.")
    routes = Routes(row.alias, storage.cache_prefix)
    routes.forget(row.name)
    if not ledger().retransfer(row):
        raise LeaseLost(f"{row} was changed in the meantime.")
    routes.forget(row.name)
    enqueue_on_commit(row.alias, storage.queue_for(row.host), row.pk)


# The errands that repair a difference, by its kind and side
REPAIRS: dict[str, tuple[Errand, ...]] = {
    "missing-local": (Errand(_forget_local),),
    "different-local": (Errand(_drop_local), RESTORE),
    "extra-local": (Errand(_drop_extra),),
    "missing-remote": (Errand(_transfer_again),),
    "different-remote": (Errand(_transfer_again),),
}
