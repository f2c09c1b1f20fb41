"""Retry, transfer or cancel the files of a query."""

from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..queues.on_commit import enqueue_on_commit
from ..reporting.logs import fields_of, logger
from .passes import Report, Step, batches, ignore
from .storages import storage_of


def retry(rows: QueuedFileQuerySet, report: Report = ignore) -> int:
    """Retry failed and waiting files now, with all their retries; return how many.

    This includes deletes and evictions that wait for their next attempt.
    """
    count = 0
    for batch in batches(rows.retriable()):
        with transaction.atomic(using=ledger_database()):
            count += _rows_of(batch).retry()
            enqueue_rows(batch)
        report(_step(batch))
    return count


def transfer(rows: QueuedFileQuerySet, report: Report = ignore) -> int:
    """Transfer held, pending and failed files now; return how many."""
    count = 0
    for batch in batches(rows.untransferred()):
        with transaction.atomic(using=ledger_database()):
            count += _rows_of(batch).make_due()
            enqueue_rows(batch)
        report(_step(batch))
    return count


def prioritize(rows: QueuedFileQuerySet, priority: int, report: Report = ignore) -> int:
    """Give files that aren't transferred yet another priority; return how many had not had it."""
    count = 0
    for batch in batches(rows.prioritizable()):
        count += _rows_of(batch).prioritize(priority)
        report(_step(batch))
    return count


def cancel(rows: QueuedFileQuerySet, report: Report = ignore) -> int:
    """Hold pending and transferring files, and cancel pending evictions; return how many.

    Held files keep their local copies.
    """
    count = 0
    for batch in batches(rows.cancellable()):
        count += _rows_of(batch).cancel()
        report(_step(batch))
    return count


def _rows_of(batch: Sequence[QueuedFile]) -> QueuedFileQuerySet:
    return ledger().filter(pk__in=[row.pk for row in batch])


def _step(batch: Sequence[QueuedFile]) -> Step:
    return Step(len(batch), sum(row.size for row in batch))


def enqueue_rows(batch: Sequence[QueuedFile]) -> None:
    """Enqueue due files on commit; log those whose storage this process doesn't know."""
    for row in batch:
        try:
            queue = storage_of(row).queue_for(row.host, is_local=row.is_local)
        except ImproperlyConfigured as error:
            logger.error(
                "%s is due, but this process cannot enqueue it. %s",
                row,
                error,
                extra=fields_of(row),
            )
        else:
            enqueue_on_commit(row.alias, queue, row.pk, priority=row.priority)
