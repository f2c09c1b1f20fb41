"""Passes over many files of the ledger."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Count, Min, Q, Sum

from .aliases import known_storages, storage_for
from .clock import DatabaseNow, seconds_from_now
from .conf import settings
from .exceptions import UnknownAlias
from .logs import logger
from .models import State, ledger

BATCH = 1000  # rows in memory
SILENT_AFTER = 3600  # seconds that files of a host may be due before somebody is told


def sweep(alias: str | None = None) -> int:
    """Have every due file worked on through its queue; returns how many were handed over.

    Due are files whose wake-up was lost, whose next try has come, or whose worker died. Files of
    an alias that no storage here has are logged, and stay as they are. What a queue that cannot
    be told raises is raised in the end, when the other queues have been told.
    """
    count = 0
    errors: list[Exception] = []
    for place, pks in _due(alias):
        try:
            count += _hand_over(place, pks)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return count


class Place(NamedTuple):
    """Whose files they are, and which host they need."""

    alias: str
    host: str
    is_local: bool


def _due(alias: str | None) -> Iterator[tuple[Place, list[int]]]:
    """The due rows, each once, in batches of one place."""
    rows = ledger().due().order_by("pk")
    if alias is not None:
        rows = rows.filter(alias=alias)
    last = 0
    while found := list(rows.filter(pk__gt=last).values_list("pk", *Place._fields)[:BATCH]):
        last = found[-1][0]
        by_place = defaultdict(list)
        for pk, *place in found:
            by_place[Place(*place)].append(pk)
        yield from by_place.items()


def _hand_over(place: Place, pks: list[int]) -> int:
    try:
        storage: Any = storage_for(place.alias)
    except UnknownAlias as error:
        logger.error(
            "%s files are due, but nobody can move them. %s",
            len(pks),
            error,
            extra={"queued_storage": place.alias},
        )
        return 0
    queue = storage.queue_for(place.host, is_local=place.is_local)
    for start in range(0, len(pks), queue.batch_size):
        queue.enqueue(pks[start : start + queue.batch_size])
    return len(pks)


@dataclass(frozen=True)
class Tally:
    """The files of one storage in one state."""

    alias: str
    state: str
    files: int
    bytes: int
    oldest: datetime  # when the first of them was saved
    is_claimed: bool  # whether a storage of this process has the alias


def tallies() -> list[Tally]:
    """How many files are where, by storage and state."""
    known = {storage.alias for storage in known_storages()}
    rows: Any = (
        ledger()
        .values_list("alias", "state")
        .annotate(Count("pk"), Sum("size"), Min("saved_at"))
        .order_by("alias", "state")
    )
    return [
        Tally(alias, state, files, size, oldest, alias in known)
        for alias, state, files, size, oldest in rows
    ]


@dataclass(frozen=True)
class Backlog:
    """The files whose only copy is on the disk of one host."""

    host: str
    files: int
    bytes: int
    overdue: datetime | None  # when the first of those that are due became so


def backlogs() -> list[Backlog]:
    """What each host still has to do, where each has a local storage of its own."""
    if not settings.local_per_host:
        return []
    waits = Q(state__in=[State.PENDING, State.TRANSFERRING, State.HELD, State.FAILED])
    rows: Any = (
        ledger()
        .filter(waits, is_local=True)
        .values_list("host")
        .annotate(
            Count("pk"), Sum("size"), overdue=Min("due_at", filter=Q(due_at__lte=DatabaseNow()))
        )
        .order_by("host")
    )
    return [Backlog(*row) for row in rows]


def _silent_hosts() -> list[str]:
    """Hosts on whose files nobody has worked for a long time."""
    due: Any = (
        ledger()
        .due()
        .filter(is_local=True, due_at__lte=seconds_from_now(-SILENT_AFTER))
        .values_list("host")
        .annotate(Count("pk"))
        .order_by("host")
    )
    return [
        f"{count} files wait for the host {host!r}, where nobody has worked on them for an hour. "
        f"Start a worker there; or, if its disk is gone for good: queued_storage give-up {host}"
        for host, count in due
    ]


def troubles() -> list[str]:
    """What somebody must be told: files that are parked, and files that nobody can move."""
    found = [
        f"{tally.files} files of {tally.alias!r} failed. See 'queued_storage status', mend the "
        f"cause, then transfer them again."
        for tally in tallies()
        if tally.state == State.FAILED
    ]
    stuck = ledger().filter(state=State.DELETING, attempts__gt=settings.retries)
    if count := stuck.count():
        found.append(
            f"{count} deleted files cannot be removed from their remote; it is tried on and on. "
            f"See 'queued_storage status' for the reasons."
        )
    if settings.local_per_host:
        found += _silent_hosts()
    unclaimed = {tally.alias for tally in tallies() if not tally.is_claimed}
    return found + [
        f"No storage has the alias {alias!r}, so its files stay where they are."
        for alias in sorted(unclaimed)
    ]


def last_failures(limit: int = 10) -> list[tuple[str, str, str]]:
    """The alias, name and reason of the files that are in trouble, the newest first."""
    rows = ledger().exclude(last_error="").order_by("-pk")
    return list(rows.values_list("alias", "name", "last_error")[:limit])
