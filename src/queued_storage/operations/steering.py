"""Carries out what an operator asks for, on files chosen by a query."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..queues.wakeup import wake
from ..reporting.logs import fields_of, logger
from .passes import BATCH, Step, Tell, nobody

# Transfers


def retry(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Have files worked on now that failed or wait for their next try; returns how many."""
    count = 0
    for batch in rows.retriable().in_batches(BATCH):
        with transaction.atomic(using=ledger_database()):
            count += _of(batch).retry()
            enqueue_rows(batch)
        tell(_step(batch))
    return count


def transfer(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Have files transferred now that are held, wait or failed; returns how many."""
    count = 0
    for batch in rows.untransferred().in_batches(BATCH):
        with transaction.atomic(using=ledger_database()):
            count += _of(batch).make_due()
            enqueue_rows(batch)
        tell(_step(batch))
    return count


def cancel(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Hold files that are to be transferred, or just being so; returns how many.

    Their local copies stay. Of a transferred file, the eviction that is to come is dropped.
    """
    count = 0
    for batch in rows.cancellable().in_batches(BATCH):
        count += _of(batch).cancel()
        tell(_step(batch))
    return count


def _of(batch: Sequence[QueuedFile]) -> QueuedFileQuerySet:
    return ledger().filter(pk__in=[row.pk for row in batch])


def _step(batch: Sequence[QueuedFile]) -> Step:
    return Step(len(batch), sum(row.size for row in batch))


def enqueue_rows(batch: Sequence[QueuedFile]) -> None:
    for row in batch:
        try:
            storage: Any = storage_for(row.alias, row.task)
            queue = storage.queue_for(row.host, is_local=row.is_local)
        except ImproperlyConfigured as error:
            logger.error(
                "%s is due, but nobody here can move it. %s", row, error, extra=fields_of(row)
            )
        else:
            wake(row.alias, queue, row.pk)


# Local copies


# Files that are lost
