"""Delete files that have no copy left."""

from collections.abc import Callable, Iterator

from ..files import localfiles
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..reporting.reasons import reason
from ..storage.routes import Routes
from ..transfers.parts import sides_of
from .passes import Report, Step, each, ignore, never
from .steering import enqueue_rows
from .storages import storage_of


def prune(
    rows: QueuedFileQuerySet,
    report: Report = ignore,
    *,
    dry_run: bool = False,
    until: Callable[[], bool] = never,
) -> Iterator[str]:
    """Delete the files that have neither a local nor a remote copy; yield their descriptions.

    Files with a local copy on another host are skipped. Before each delete ``until()`` is called;
    if it returns True, the pass ends.
    """
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


def _is_lost(row: QueuedFile) -> bool:
    storage = storage_of(row)
    if localfiles.exists(storage.local, row.name):
        return False
    return not storage.uploader.exists(row.remote_name or row.name)


def _delete(row: QueuedFile) -> bool:
    if not ledger().mark_deleting_if_unchanged(row):
        return False
    Routes(row.alias, storage_of(row).cache_prefix).forget(row.name)
    enqueue_rows([row])
    return True
