"""Enqueue all due files."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, cast

from django.db.models import F

from ..exceptions import UnknownAlias
from ..ledger import measures
from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.jobs import are_available, jobs
from ..ledger.preparations import preparations
from ..ledger.rows import is_overdue
from ..ledger.sql.clock import DatabaseNow
from ..reporting.counts import counted
from ..reporting.logs import logger
from ..transfers import filling, surplus
from ..transfers.gates import gates
from .base import BaseQueue
from .jobs import notify

AT_ONCE_REMOVED = 500  # old copies
AT_ONCE = 50_000  # keys in memory; each query reads the due part of the index as a whole


def sweep(alias: str | None = None) -> int:
    """Enqueue every due file, of one storage or of all. Return the number of files.

    Files are due if their message was lost, if it is time for a retry, or if their worker died.
    Files of an unknown alias are logged and skipped. If a queue cannot be notified, its exception
    is raised after all other queues were.

    A sweep of all storages also fills in some places of files saved by earlier versions, and
    removes old copies that are of no use.
    """
    count = 0
    errors: list[Exception] = []
    for place, pks in _due(alias):
        try:
            count += _enqueue(place, pks)
        except Exception as error:
            errors.append(error)
    for enqueue in (_enqueue_preparations, _enqueue_copies):
        try:
            count += enqueue(alias)
        except Exception as error:
            errors.append(error)
    try:
        _enqueue_jobs(alias)
    except Exception as error:
        errors.append(error)
    if errors:
        raise errors[0]
    if alias is None:
        filling.fill_for_sweep()
        surplus.dispose_due(AT_ONCE_REMOVED)
    return count


class Place(NamedTuple):
    """What files must share to go into one message."""

    alias: str
    host: str
    is_local: bool


class _Storage(Protocol):
    def queue_for(self, host: str, *, is_local: bool) -> BaseQueue:
        """Return the queue whose workers can process files of this host."""


def _due(alias: str | None) -> Iterator[tuple[Place, list[int]]]:
    """Yield the ids of the due rows, in batches of one place: first those that have waited for
    ``MAX_WAIT``, then those of the highest priority."""
    lately = gates.opened_lately()
    for each in measures.aliases() if alias is None else [alias]:
        overdue = is_overdue(was_opened_lately=each in lately)
        ranges = ledger().due().ranges([each])
        for is_first in (True, False):
            for rows in ranges:
                yield from _in_batches(rows.filter(overdue if is_first else ~overdue))


def _in_batches(rows: QueuedFileQuerySet) -> Iterator[tuple[Place, list[int]]]:
    # As an expression, so that no database reads all rows in the order of the primary key.
    columns = rows.alias(key=F("pk") + 0).order_by("key").values_list("pk", *Place._fields)
    found = list(columns[:AT_ONCE])
    yield from _by_place(found)
    while len(found) == AT_ONCE:
        found = list(columns.filter(key__gt=found[-1][0])[:AT_ONCE])
        yield from _by_place(found)


def _by_place(found: list[tuple[Any, ...]]) -> Iterable[tuple[Place, list[int]]]:
    by_place = defaultdict(list)
    for pk, *place in found:
        by_place[Place(*place)].append(pk)
    return by_place.items()


def _enqueue(place: Place, pks: list[int]) -> int:
    try:
        storage = cast("_Storage", storage_for(place.alias))
    except UnknownAlias as error:
        logger.error(
            "%s could not be enqueued. %s",
            counted(len(pks), "1 due file", "{} due files"),
            error,
            extra={"queued_storage": place.alias},
        )
        return 0
    queue = storage.queue_for(place.host, is_local=place.is_local)
    for start in range(0, len(pks), queue.batch_size):
        queue.enqueue(pks[start : start + queue.batch_size])
    return len(pks)


def _enqueue_preparations(alias: str | None) -> int:
    """Notify workers of the files whose steps are due; return how many."""
    from ..transfers import preparing  # only when there is work

    count = 0
    for each in preparing.aliases_with_steps(None if alias is None else [alias]):
        rows = preparations().filter(due_at__lte=DatabaseNow()).of_alias(each).order_by("due_at")
        by_host = defaultdict(list)
        for pk, host in rows.values_list("file", "host")[:AT_ONCE]:
            by_host[host].append(pk)
        for host, pks in by_host.items():
            count += _enqueue(Place(each, host, True), pks)
    return count


def _enqueue_copies(alias: str | None) -> int:
    """Notify workers of the files whose copies on mirrors are due; return how many."""
    from ..transfers import copying  # only when there is work

    count = 0
    for mirror in copying.open_mirrors(None if alias is None else [alias]):
        pks = list(copying.due(mirror).order_by("due_at").values_list("file", flat=True)[:AT_ONCE])
        count += _enqueue(Place(mirror.alias, "", False), pks)
    return count


def _enqueue_jobs(alias: str | None) -> None:
    """Notify workers of the jobs that no worker is processing."""
    if not are_available():
        return
    due = jobs().due()
    if alias is not None:
        due = due.filter(alias=alias)
    for pk, its_alias, host in due.values_list("pk", "alias", "host"):
        try:
            storage = cast("_Storage", storage_for(its_alias))
        except UnknownAlias as error:
            logger.error("The job %s could not be enqueued. %s", pk, error)
        else:
            notify(storage.queue_for(host, is_local=bool(host)), [pk])
