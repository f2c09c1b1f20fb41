"""Delete files that have no copy left on either side."""

from collections.abc import Callable, Iterator
from typing import Any

from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..reporting.reasons import reason
from ..storage.routes import Routes
from ..transfers.parts import sides_of
from .passes import BATCH, Step, Tell, never, nobody
from .steering import enqueue_rows


def prune(
    rows: QueuedFileQuerySet,
    tell: Tell = nobody,
    *,
    dry_run: bool = False,
    until: Callable[[], bool] = never,
) -> Iterator[str]:
    """Delete files of which there is no copy on either side, where this host can see both; yields
    what they are called. Where there is one, and ``until()`` is true, it is the end."""
    for row in (row for batch in rows.prunable().in_batches(BATCH) for row in batch):
        try:
            is_lost = _is_lost(row)
        except Exception as error:
            tell(Step(1, row.size, reason(error, *sides_of(row)), str(row)))
            continue
        if is_lost and until():
            break
        if is_lost and (dry_run or _bury(row)):
            yield str(row)
        tell(Step(1, row.size))


def _is_lost(row: QueuedFile) -> bool:
    storage: Any = storage_for(row.alias, row.task)
    if storage.local.exists(row.name):
        return False
    return not storage.remote.exists(row.remote_name or row.name)


def _bury(row: QueuedFile) -> bool:
    if not ledger().mark_deleting_if_unchanged(row):
        return False
    storage: Any = storage_for(row.alias, row.task)
    Routes(row.alias, storage.cache_prefix).forget(row.name)
    enqueue_rows([row])
    return True
