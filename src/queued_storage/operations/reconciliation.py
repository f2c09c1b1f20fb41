"""Repairs what a comparison of the ledger with both storages finds."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from django.db import transaction

from ..exceptions import LeaseLost, LocalFileMissing
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import is_reachable_from_here
from ..queues.wakeup import wake
from ..storage.routes import Routes
from ..transfers import copies
from ..transfers.copies import is_copy
from ..transfers.leases import Lease
from .comparison import Finding, verify
from .errands import restore_one, run_errand
from .inventory import anothers
from .passes import Tell


def reconcile(
    rows: QueuedFileQuerySet,
    repairs: Collection[str],
    *,
    content: bool = False,
    dry_run: bool = False,
    tell: Tell = lambda step: None,
) -> Iterator[tuple[Finding, str]]:
    """Compare, and repair what one of ``repairs`` is for; yields each such finding, and why it
    could not be repaired ("" if it could)."""
    for finding in verify(rows, content=content, tell=tell):
        if (name := f"{finding.kind}-{finding.side}") in repairs:
            error = None if dry_run else REPAIRS[name](finding.pk)
            yield finding, error or ""


def _forget_local(storage: Any, row: QueuedFile, lease: Lease) -> None:
    """Note that the local copy is gone."""
    if not row.is_local or storage.local.exists(row.name):
        raise LeaseLost(f"{row} has its local copy.")
    copies.verify_remote(storage, row, "checksum", lease.progress)
    lease.confirm()
    copies.free_local(storage, row)


def _drop_local(storage: Any, row: QueuedFile, lease: Lease) -> None:
    """Remove the local copy, when every byte of the remote one was read."""
    if not row.is_local or not is_reachable_from_here(row.host):
        raise LeaseLost(f"{row} has no local copy here.")
    copies.verify_remote(storage, row, "content", lease.progress)
    lease.confirm()
    copies.free_local(storage, row)


def _replace_local(pk: int) -> str | None:
    return run_errand(pk, _drop_local) or run_errand(pk, restore_one)


def _drop_extra(storage: Any, row: QueuedFile, lease: Lease) -> None:
    """Remove a local file that the ledger does not have, if its bytes are the remote copy's."""
    if row.is_local:
        raise LeaseLost(f"{row} has a local copy again.")
    if anothers(storage, [row.name]):
        raise FileExistsError(f"The local {row.name!r} is the file of another storage.")
    if not is_copy(storage, row):
        raise FileExistsError(f"The local {row.name!r} has other bytes. See to it yourself.")
    copies.verify_remote(storage, row, "checksum", lease.progress)
    lease.confirm()
    with transaction.atomic(using=ledger_database()):  # locked against who restores it
        if not ledger().settle(row):
            raise LeaseLost(f"{row} was changed meanwhile.")
        storage.local.delete(row.name)


def _send_again(storage: Any, row: QueuedFile, lease: Lease) -> None:
    """Transfer the local copy once more, over what is on the remote under its name."""
    if not row.is_local or not is_reachable_from_here(row.host) or not is_copy(storage, row):
        raise LocalFileMissing(f"There is no whole local copy of {row.name!r} here to be sent.")
    routes = Routes(row.alias, storage.cache_prefix)
    routes.forget(row.name)
    if not ledger().retransfer(row):
        raise LeaseLost(f"{row} was changed meanwhile.")
    routes.forget(row.name)
    wake(row.alias, storage.queue_for(row.host), row.pk)


def _errand(errand: Callable[[Any, QueuedFile, Lease], None]) -> Callable[[int], str | None]:
    return lambda pk: run_errand(pk, errand)


# By kind and side of the finding
REPAIRS: dict[str, Callable[[int], str | None]] = {
    "missing-local": _errand(_forget_local),
    "different-local": _replace_local,
    "extra-local": _errand(_drop_extra),
    "missing-remote": _errand(_send_again),
    "different-remote": _errand(_send_again),
}
