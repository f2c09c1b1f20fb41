"""Accept local copies that were changed in place as the new content of their files."""

from dataclasses import replace

from django.db import transaction

from ..exceptions import LeaseLost
from ..files import successors, volumes
from ..files.stamps import read_unchanging
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import Content, State
from ..queues.on_commit import enqueue_on_commit
from ..reporting.reasons import reason
from ..storage.routes import Routes
from ..transfers import intact
from ..transfers.parts import sides_of
from .errands import CHANGED
from .passes import Report, Step, each, ignore
from .storages import OperableStorage, storage_of


def accept_local(
    rows: QueuedFileQuerySet, report: Report = ignore, *, dry_run: bool = False
) -> int:
    """Record changed local copies as new content, and transfer them; return how many.

    Every byte is read. Files whose local copy is as recorded, or on another host, stay as they are.
    """
    count = 0
    for row in each(rows.with_local_copy_here()):
        try:
            accepted = _accept(row, dry_run)
        except Exception as error:
            report(Step(1, 0, reason(error, *sides_of(row)), str(row)))
        else:
            count += accepted is not None
            report(Step(1, accepted or 0))
    return count


def _accept(row: QueuedFile, dry_run: bool) -> int | None:
    """Record the local bytes of a file; return how many, or None if they are as recorded."""
    storage = storage_of(row)
    volumes.require(row.alias, storage.local)
    successors.put_in_place(storage.local, row.name, row)
    found, _stamp = read_unchanging(storage.local, row.name)
    if not intact.is_changed(storage.local, row, found):
        return None
    found = replace(found, content_type=row.content_type)
    if not dry_run and not _record(storage, row, found):
        raise LeaseLost(CHANGED)
    return found.size


def _record(storage: OperableStorage, row: QueuedFile, found: Content) -> int:
    """Start a new generation with these bytes, unless the row has changed."""
    entry = ledger().entry(row.alias, row.name)
    seen = (row.pk, row.generation, row.is_local, row.host)
    if entry is None or (entry.pk, entry.generation, entry.is_local, entry.host) != seen:
        return 0
    is_held = row.state == State.HELD
    routes = Routes(row.alias, storage.cache_prefix)
    routes.forget(row.name)
    with transaction.atomic(using=ledger_database()):
        taken = ledger().overwrite(
            entry, found, held=is_held, task=row.task, place=storage.remote_place.digest
        )
        if taken and not is_held:
            enqueue_on_commit(row.alias, storage.queue_for(row.host), row.pk)
    routes.forget(row.name)
    return taken
