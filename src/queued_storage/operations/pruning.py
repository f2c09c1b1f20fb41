"""Delete files that have no copy left."""

from collections.abc import Callable, Iterator
from contextlib import suppress

from ..files import presence, successors, volumes
from ..ledger.copies import at_copy, copies
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.measures import aliases
from ..ledger.models import QueuedFile
from ..reporting.reasons import reason
from ..storage.routes import Routes
from ..transfers import destinations
from ..transfers.parts import sides_of
from .passes import Report, Step, each, ignore, never
from .roots import require_safe_root
from .steering import enqueue_rows
from .storages import OperableStorage, storage_of


def prune(
    rows: QueuedFileQuerySet,
    report: Report = ignore,
    *,
    dry_run: bool = False,
    until: Callable[[], bool] = never,
) -> Iterator[str]:
    """Delete the files that have neither a local nor a remote copy; yield their descriptions.

    Files with a local copy on another host are skipped. Before each delete ``until()`` is called;
    if it returns True, the pass ends. ``ImproperlyConfigured`` is raised if a local storage holds
    files of the project.
    """
    for storage in _storages(rows):
        require_safe_root(storage, "local")
        volumes.require(storage.alias, storage.local)
    for row in each(rows.prunable()):
        try:
            is_lost = _is_lost(row)
        except Exception as error:
            report(Step(1, row.size, reason(error, *sides_of(row)), str(row)))
            continue
        if is_lost and until():
            break
        if is_lost and (dry_run or _delete(row)):
            yield str(row)
        report(Step(1, row.size))


def _storages(rows: QueuedFileQuerySet) -> list[OperableStorage]:
    """The storages of these files that this process can make."""
    found = []
    for alias in aliases():
        if row := rows.filter(alias=alias).first():
            with suppress(Exception):  # reported for each of its files
                found.append(storage_of(row))
    return found


def _is_lost(row: QueuedFile) -> bool:
    storage = storage_of(row)
    name = successors.current_name(storage.local, row.name, row)
    if presence.exists(storage.local, name):
        return False
    volumes.require(row.alias, storage.local)
    places = [row, *(at_copy(row, copy) for copy in copies().of(row))]
    return not any(_has_object(storage.with_remote_of(its), its) for its in places)


def _has_object(storage: OperableStorage, row: QueuedFile) -> bool:
    destinations.require_same_place(storage, row)
    return storage.uploader.exists(row.remote_name or row.name)


def _delete(row: QueuedFile) -> bool:
    if not ledger().mark_deleting_if_unchanged(row):
        return False
    Routes(row.alias, storage_of(row).cache_prefix).forget(row.name)
    enqueue_rows([row])
    return True
