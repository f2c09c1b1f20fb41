"""Say in numbers how the ledger and its workers are."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, F, Min, Q, Sum

from ..conf import settings
from ..ledger.aliases import known_storages
from ..ledger.database import ledger
from ..ledger.measures import UNSETTLED, aliases
from ..ledger.sql.clock import DatabaseNow, seconds_from_now
from ..ledger.states import State

LIMIT = 10_000  # transferred files of a storage that are counted in passing


EVER = 1_000_000_000  # seconds, longer than anything has been due


SILENT_AFTER = 3600  # seconds that files of a host may be due before somebody is told


@dataclass(frozen=True)
class Tally:
    """The files of one storage in one state."""

    alias: str
    state: str
    files: int
    bytes: int
    oldest: datetime  # when the first of them was saved
    is_claimed: bool  # whether a storage of this process has the alias
    is_cut: bool = False  # whether there are more than the newest that were counted


def tallies(*, exact: bool = True) -> list[Tally]:
    """How many files are where, by storage and state.

    Unless it is to be ``exact``, only the newest ``LIMIT`` of the transferred files are counted,
    so that the cost does not grow with them.
    """
    known = {storage.alias for storage in known_storages()}
    found: list[Tally] = []
    for alias in aliases():
        rows = ledger().filter(alias=alias)
        unsettled = rows.filter(state__in=UNSETTLED).values_list("state").order_by("state")
        for state, *numbers in unsettled.annotate(**_NUMBERS):
            files, size, oldest = numbers
            found.append(Tally(alias, state, files, size, oldest, alias in known))
        there = rows.filter(state=State.TRANSFERRED)
        limited = there.order_by("-transferred_at")[: None if exact else LIMIT]
        files, size, oldest = limited.aggregate(**_NUMBERS).values()
        if files:
            is_cut = not exact and files == LIMIT
            state = str(State.TRANSFERRED)
            found.append(Tally(alias, state, files, size, oldest, alias in known, is_cut))
    return sorted(found, key=lambda tally: (tally.alias, tally.state))


# Count("pk") would have PostgreSQL read the rows.
_NUMBERS: dict[str, Any] = {"files": Count("*"), "size_": Sum("size"), "since": Min("saved_at")}


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


@dataclass(frozen=True)
class Activity:
    """What there is to see of the workers."""

    moving: int  # files that one has at this moment
    silent: int  # files whose worker has not been heard of for a lease: it may be dead
    last: datetime | None  # when a file last reached its remote
    waiting_since: datetime | None  # when the longest waiting of the due files became so


def activity() -> Activity:
    claimed = ledger().exclude(lease_token="").filter(due_at__isnull=False)
    free = ledger().due().filter(lease_token="")
    return Activity(
        moving=claimed.filter(due_at__gt=DatabaseNow()).count(),
        silent=claimed.due().count(),
        last=max(filter(None, map(_last_transfer, aliases())), default=None),
        waiting_since=free.order_by("due_at").values_list("due_at", flat=True).first(),
    )


def _last_transfer(alias: str) -> datetime | None:
    there = ledger().filter(alias=alias, state=State.TRANSFERRED, transferred_at__isnull=False)
    return there.order_by("-transferred_at").values_list("transferred_at", flat=True).first()


@dataclass(frozen=True)
class Limits:
    """What monitoring puts up with; None is no limit."""

    age: timedelta | None = None  # of the oldest file that is not on its remote
    bytes: int | None = None  # that are not on their remote


def excesses(limits: Limits) -> list[str]:
    """Which limits are passed. Held files wait by themselves, so they do not count."""
    if limits == Limits():
        return []
    waiting = ledger().filter(alias__in=aliases(), state__in=[State.PENDING, State.TRANSFERRING])
    found = []
    if limits.age is not None:
        late = waiting.filter(saved_at__lte=seconds_from_now(-limits.age.total_seconds()))
        if count := late.count():
            found.append(f"{count} files have been waiting for longer than {limits.age}.")
    if limits.bytes is not None:
        size = waiting.aggregate(size=Sum("size"))["size"] or 0
        if size > limits.bytes:
            found.append(f"{size} bytes are waiting, more than {limits.bytes}.")
    return found


def troubles(max_failures: int = 0, counted: list[Tally] | None = None) -> list[str]:
    """What somebody must be told: more parked files than so many, and files that nobody can
    move. ``counted`` are the tallies, if they were asked for already."""
    counted = tallies(exact=False) if counted is None else counted
    failed = sum(tally.files for tally in counted if tally.state == State.FAILED)
    found = (
        []
        if failed <= max_failures
        else [
            f"{tally.files} files of {tally.alias!r} failed. See 'queued_storage status', mend the "
            f"cause, then transfer them again."
            for tally in counted
            if tally.state == State.FAILED
        ]
    )
    deletes = {tally.alias for tally in counted if tally.state == State.DELETING}
    stuck = ledger().filter(alias__in=deletes, state=State.DELETING)
    if count := stuck.filter(attempts__gt=settings.retries).count():
        found.append(
            f"{count} deleted files cannot be removed from their remote; it is tried on and on. "
            f"See 'queued_storage status' for the reasons."
        )
    if settings.local_per_host:
        found += _silent_hosts()
    unclaimed = {tally.alias for tally in counted if not tally.is_claimed}
    return found + [
        f"No storage has the alias {alias!r}, so its files stay where they are."
        for alias in sorted(unclaimed)
    ]


def last_failures(limit: int = 10) -> list[tuple[str, str, str]]:
    """The alias, name and reason of the files that are in trouble, the newest first.

    Of the transferred ones, those of which something is due.
    """
    unsettled = ledger().filter(alias__in=aliases(), state__in=UNSETTLED)
    # "is not NULL" would have SQLite go through all rows.
    due = ledger().filter(due_at__gt=seconds_from_now(-EVER))
    found: set[tuple[int, str, str, str]] = set()
    for rows in (unsettled, due):
        # Few keys from an index first, and not in the order of the keys: a database would rather
        # go through all rows until it has found enough.
        in_trouble = ledger().filter(pk__in=rows.values("pk")).exclude(last_error="")
        newest_first = in_trouble.order_by((F("pk") + 0).desc())
        found.update(newest_first.values_list("pk", "alias", "name", "last_error")[:limit])
    newest = sorted(found, reverse=True)[:limit]
    return [(alias, name, error) for _pk, alias, name, error in newest]
