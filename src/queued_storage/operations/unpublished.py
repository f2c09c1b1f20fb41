"""What an operator can do with files that wait for their steps, are held, or were rejected."""

import shlex
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Protocol, cast

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.preparations import (
    Counted,
    Preparation,
    Preparations,
    PreparationState,
    preparations,
)
from ..ledger.sql.clock import seconds_from_now
from ..ledger.states import State
from ..queues.on_commit import enqueue_on_commit
from ..reporting.counts import counted
from ..reporting.logs import fields_of, logger
from ..transfers.preparing import aliases_with_steps
from .storages import OperableStorage

BATCH = 500  # files that one transaction changes


class DeletingStorage(Protocol):
    def delete(self, name: str) -> None: ...


def stopped(rows: QueuedFileQuerySet) -> Preparations:
    """Those of these files that wait for an operator, the oldest first."""
    found = of_files(rows).stopped().current()
    return found.select_related("file").order_by("saved_at", "pk")


def release(found: Preparations) -> int:
    """Let held and rejected files be published and transferred, whatever their steps say."""
    count = 0
    for batch in _batches(found.stopped().filter(due_at=None)):
        with transaction.atomic(using=ledger_database()):
            released = [each for each in batch if preparations().filter(pk=each.pk).release()]
            pks = [each.file_id for each in released]
            ledger().filter(pk__in=pks, state=State.REJECTED).update(state=State.PREPARING)
            _enqueue(released)
        count += len(released)
    return count


def of_files(rows: QueuedFileQuerySet) -> Preparations:
    """The preparations of these files."""
    return preparations().filter(file__in=rows.values("pk"))


def retry(found: Preparations) -> int:
    """Run the steps again that failed, or that wait for their next attempt; return how many."""
    count = 0
    for batch in _batches(found.exclude(state=PreparationState.REJECTED)):
        with transaction.atomic(using=ledger_database()):
            retried = [each for each in batch if preparations().filter(pk=each.pk).retry()]
            _enqueue(retried)
        count += len(retried)
    return count


def discard(found: Preparations) -> int:
    """Delete held and rejected files.

    New content of a published file is deleted, but not the file.
    """
    count = 0
    for batch in _batches(found.stopped()):
        for each in batch:
            file = each.file
            is_new_content = each.hidden and file.state not in (State.PREPARING, State.REJECTED)
            if is_new_content:
                with transaction.atomic(using=ledger_database()):
                    count += preparations().filter(pk=each.pk).make_stale()
                    _enqueue([each])
            else:
                storage = cast(DeletingStorage, storage_for(file.alias, file.task))
                storage.delete(file.name)
                count += 1
    return count


def lost_with(host: str) -> Preparations:
    """Those whose bytes lay on the disk of a host."""
    return preparations().filter(host=host)


def give_up(host: str) -> int:
    """Declare unpublished content lost with the disk of a host; return of how many files.

    Files that have no other content become failed. Published files stay as they are.
    """
    count = 0
    for batch in _batches(lost_with(host)):
        with transaction.atomic(using=ledger_database()):
            ledger().give_up_unpublished([each.file_id for each in batch], host)
            count += preparations().filter(pk__in=[each.pk for each in batch]).delete()[0]
    return count


def _batches(found: Preparations) -> Any:
    """Yield all of these once, in batches."""
    rows = found.select_related("file").order_by("pk")
    batch = list(rows[:BATCH])
    while batch:
        yield batch
        batch = list(rows.filter(pk__gt=batch[-1].pk)[:BATCH])


def _enqueue(found: Sequence[Preparation]) -> None:
    for each in found:
        file = each.file
        try:
            storage = cast(OperableStorage, storage_for(file.alias, file.task))
        except ImproperlyConfigured as error:
            logger.error(
                "%s is due, but this process cannot enqueue it. %s",
                file,
                error,
                extra=fields_of(file),
            )
        else:
            enqueue_on_commit(file.alias, storage.queue_for(each.host), file.pk)


# What needs attention


def excesses(max_age: timedelta | None) -> list[str]:
    """Whether files have waited for their steps for too long."""
    if max_age is None:
        return []
    late = preparations().waiting().filter(saved_at__lte=seconds_from_now(-max_age.total_seconds()))
    count = late.count()
    if not count:
        return []
    files = counted(count, "{} file has", "{} files have")
    return [f"{files} waited for steps for longer than {max_age}."]


def troubles(found: Collection[Counted], max_held: int = 0) -> list[str]:
    """The held files, if there are more than so many, and files whose steps nobody knows."""
    by_state: dict[str, dict[str, int]] = defaultdict(dict)
    for each in found:
        by_state[each.state][each.alias] = each.files
    held = by_state[PreparationState.HELD]
    waiting = by_state[PreparationState.WAITING]
    known = set(aliases_with_steps())
    texts = []
    if sum(held.values()) > max_held:
        texts += [
            counted(count, "{} file of", "{} files of")
            + f" {alias!r} {counted(count, 'is', 'are')} held, because a step could not be run. "
            "Run 'manage.py queued_storage unpublished' to see the reasons. Fix the cause, then "
            f"run 'manage.py queued_storage retry --storage {shlex.quote(alias)}', or publish them "
            "with 'release'."
            for alias, count in held.items()
        ]
    texts += [
        counted(count, "{} file of", "{} files of")
        + f" {alias!r} {counted(count, 'waits', 'wait')} for steps, but this process knows no "
        "steps of the storage. Put the option 'steps' back, or publish them with "
        f"'manage.py queued_storage release --storage {shlex.quote(alias)}'."
        for alias, count in waiting.items()
        if alias not in known
    ]
    return texts
