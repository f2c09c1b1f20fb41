"""Numbers and warnings about the ledger and its workers."""

import shlex
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from django.db.models import Count, Min, Q, Sum

from ..conf import settings
from ..files import volumes
from ..ledger import measures, unplaced
from ..ledger.aliases import known_storages
from ..ledger.availability import (
    Availability,
    availabilities,
    beside_them,
    in_use,
    reachable,
    sentence,
)
from ..ledger.copy_counts import waiting_for
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.jobs import Job, are_available, jobs
from ..ledger.measures import UNSETTLED, aliases
from ..ledger.sql.clock import DatabaseNow, seconds_from_now
from ..ledger.states import KNOWN, State
from ..reporting.counts import counted
from ..reporting.reasons import one_line
from ..transfers import filling
from . import mirrors, space
from .places import moved_storages
from .writers import other_writers

LIMIT = 10_000  # transferred files of a storage that are counted unless all must be
SHOWN = 5  # files that killed their worker
MAX_AWAY = timedelta(minutes=5)  # for which a remote may be closed before it is a trouble
WORKER = "'manage.py queued_storage worker'"
IDLE_AFTER = 3600  # seconds that the files of a host may be due without a worker processing them


@dataclass(frozen=True)
class Tally:
    """The files of one storage in one state."""

    alias: str
    state: str
    files: int
    bytes: int
    oldest: datetime  # when the oldest of them was saved
    is_claimed: bool  # whether a storage of this process has the alias
    is_cut: bool = False  # whether only the newest LIMIT files were counted


def tallies(*, exact: bool = True) -> list[Tally]:
    """The number of files by storage and state.

    Unless ``exact``, only the newest ``LIMIT`` transferred files of each storage are counted, so
    that the time this takes does not grow with the ledger.
    """
    known = {storage.alias for storage in known_storages()}
    found: list[Tally] = []
    for alias in aliases():
        rows = ledger().filter(alias=alias)
        others = rows.filter(state__in=[*UNSETTLED, *measures.unknown_states(alias)])
        by_state = others.values_list("state").order_by("state").annotate(**_NUMBERS)
        for state, files, size, oldest in by_state:
            found.append(Tally(alias, state, files, size, oldest, alias in known))
        transferred = rows.filter(state=State.TRANSFERRED)
        counted_rows = transferred.order_by("-transferred_at")[: None if exact else LIMIT]
        files, size, oldest = counted_rows.aggregate(**_NUMBERS).values()
        if files:
            is_cut = not exact and files == LIMIT
            state = str(State.TRANSFERRED)
            found.append(Tally(alias, state, files, size, oldest, alias in known, is_cut))
    return sorted(found, key=lambda tally: (tally.alias, tally.state))


# For Count("pk"), PostgreSQL would read the rows.
_NUMBERS: dict[str, Any] = {"files": Count("*"), "size_": Sum("size"), "since": Min("saved_at")}


@dataclass(frozen=True)
class Backlog:
    """The files whose only copy is on the disk of one host."""

    host: str
    files: int
    bytes: int
    overdue: datetime | None  # when the first of the due ones became due


def backlogs() -> list[Backlog]:
    """The backlog of each host, if each has its own local storage."""
    if not settings.local_per_host:
        return []
    waits = Q(state__in=[State.PENDING, State.TRANSFERRING, State.HELD, State.FAILED])
    rows: Any = (
        ledger()
        .filter(waits, alias__in=aliases(), is_local=True)
        .values_list("host")
        .annotate(
            Count("pk"), Sum("size"), overdue=Min("due_at", filter=Q(due_at__lte=DatabaseNow()))
        )
        .order_by("host")
    )
    return [Backlog(*row) for row in rows]


@dataclass(frozen=True)
class Activity:
    """What the workers are doing, as far as the ledger shows it."""

    moving: int  # files under a valid lease
    silent: int  # files with an expired lease, whose worker may be dead
    last: datetime | None  # when the last transfer was completed
    waiting_since: datetime | None  # when the oldest due file that no worker has claimed became due


def activity() -> Activity:
    """What the workers are doing now, and what waits for them; not what waits for a remote."""
    claimed = ledger().exclude(lease_token="")
    opened = reachable(aliases(), in_use())
    first = (_first_due(rows.filter(lease_token="")) for rows in measures.ranges(opened))
    return Activity(
        moving=_count(claimed.filter(due_at__gt=DatabaseNow()).ranges(aliases())),
        silent=_count(claimed.due().ranges(opened)),
        last=max(filter(None, map(measures.last_transfer, aliases())), default=None),
        waiting_since=min(filter(None, first), default=None),
    )


def _count(ranges: list[QueuedFileQuerySet]) -> int:
    return sum(rows.count() for rows in ranges)


def _first_due(rows: QueuedFileQuerySet) -> datetime | None:
    return rows.due().order_by("due_at").values_list("due_at", flat=True).first()


def excesses(max_age: timedelta | None = None, max_bytes: int | None = None) -> list[str]:
    """The limits that are exceeded by files that aren't transferred yet; held files are ignored.

    ``max_age`` is that of the oldest file that doesn't wait for a closed remote, ``max_bytes`` the
    size of all. None is no limit.
    """
    if max_age is None and max_bytes is None:
        return []
    pending = ledger().filter(alias__in=aliases(), state__in=[State.PENDING, State.TRANSFERRING])
    found = []
    if max_age is not None:
        moving = pending.filter(alias__in=reachable(aliases(), in_use()))
        late = moving.filter(saved_at__lte=seconds_from_now(-max_age.total_seconds()))
        if count := late.count():
            files = counted(count, "{} file has", "{} files have")
            found.append(f"{files} been pending for longer than {max_age}.")
    if max_bytes is not None:
        size = pending.aggregate(size=Sum("size"))["size"] or 0
        if size > max_bytes:
            pending_bytes = counted(size, "{} byte is", "{} bytes are")
            found.append(f"{pending_bytes} pending; the limit is {max_bytes:,}.")
    return found


def share_of_places() -> float:
    """The share of the ledger in which the places of files of earlier versions are filled in."""
    return unplaced.share_done(filling.WINDOW)


def remotes() -> list[tuple[Availability, int]]:
    """The remotes in use, each with the number of files that wait for it; of mirrors and previous
    remotes, those that are closed."""
    known = availabilities()
    closed = (each for each in beside_them(known) if not each.is_open)
    shown = [*(each for each in known if each.is_configured), *closed]
    return [(each, waiting_for(each)) for each in shown]


def outages(found: list[tuple[Availability, int]], longest: timedelta = MAX_AWAY) -> list[str]:
    """Those of the remotes that have been closed for longer than that, and why."""
    limit = longest.total_seconds()
    return [sentence(*each) for each in found if not each[0].is_open and each[0].age > limit]


def troubles(max_failures: int = 0, found: list[Tally] | None = None) -> list[str]:
    """What needs attention, each with what to do.

    ``max_failures`` is the number of failed files to tolerate. ``found`` are the tallies, if they
    were counted already. Files that wait for a closed remote are none: see ``outages()``.
    """
    found = tallies(exact=False) if found is None else found
    known = in_use()
    return [
        *_failures(found, max_failures),
        *_missing_volumes(),
        *_stuck_deletes(found, known),
        *_other_writers(),
        *_stalled(known),
        *_expired(known),
        *_deadly(),
        *_idle_hosts(known),
        *_idle_jobs(known),
        *_unknown_aliases(found),
        *_unknown_states(found),
        *moved(),
        *mirrors.troubles(max_failures),
        *space.troubles(),
    ]


def moved() -> list[str]:
    """The storages whose configured place isn't that of all their files, and what to do."""
    return [sentence for _storage, sentence in moved_storages(known_storages())]


def _failures(found: list[Tally], tolerated: int) -> list[str]:
    failed = [tally for tally in found if tally.state == State.FAILED]
    if sum(tally.files for tally in failed) <= tolerated:
        return []
    return [
        counted(tally.files, "{} file", "{} files")
        + f" of {tally.alias!r} failed. Run 'manage.py queued_storage list --state failed' to see "
        f"the reasons. Fix the cause, then run 'manage.py queued_storage retry --storage "
        f"{shlex.quote(tally.alias)}'."
        for tally in failed
    ]


def _missing_volumes() -> list[str]:
    found = []
    for storage in known_storages():
        with suppress(Exception):  # it cannot be made; its checks report the error
            found.append(volumes.problem_of(storage.alias, cast(Any, storage).local))
    return list(filter(None, found))


def _stuck_deletes(found: list[Tally], known: list[Availability]) -> list[str]:
    deleted_from = {tally.alias for tally in found if tally.state == State.DELETING}
    open_ones = reachable(deleted_from, known)
    deleting = ledger().filter(alias__in=open_ones, state=State.DELETING)
    count = deleting.filter(attempts__gt=settings.retries).count()
    if not count:
        return []
    return [
        counted(count, "{} deleted file", "{} deleted files")
        + " cannot be removed from the remote. The deletes are retried without limit. Run "
        "'manage.py queued_storage list --state deleting' to see the reasons."
    ]


def _other_writers() -> list[str]:
    return [
        f"The remote of {alias!r} has the marker of another writer, {writer}, so nothing there is "
        f"overwritten or removed. Use another place, or run "
        f"'manage.py queued_storage remotes accept {shlex.quote(alias)}'."
        for alias, writer in other_writers().items()
    ]


def _stalled(known: list[Availability]) -> list[str]:
    stalled = measures.stalled()
    return [
        counted(count, "{} transfer", "{} transfers")
        + f" of {alias!r} made no progress for STALL_TIMEOUT, and {counted(count, 'is', 'are')} "
        f"retried. Find out why the remote hangs, or increase the setting."
        for alias, count in stalled.items()
        if reachable([alias], known)
    ]


def _expired(known: list[Availability]) -> list[str]:
    """Files that no worker has taken over although their lease has expired."""
    expired = ledger().filter(alias__in=reachable(aliases(), known, settings.lease)).suspects()
    count = expired.filter(due_at__lte=seconds_from_now(-settings.lease)).count()
    if not count:
        return []
    return [
        counted(count, "{} file is", "{} files are")
        + " in progress under an expired lease, and no worker has taken "
        + counted(count, "it", "them")
        + " over. The worker died, or a transaction of the database locks the row. Run a worker: "
        f"{WORKER}."
    ]


def _deadly() -> list[str]:
    """Files whose worker died while it processed nothing else."""
    in_progress = ledger().filter(alias__in=aliases()).in_state(State.TRANSFERRING)
    names = list(in_progress.deadly().values_list("name", "attempts")[:SHOWN])
    return [
        f"The worker died during {counted(attempts - 1, '{} attempt', '{} attempts')} to transfer "
        f"{one_line(name)!r}, while it processed nothing else. Look for a crash, or for a lack of "
        f"memory."
        for name, attempts in names
    ]


def _idle_hosts(known: list[Availability]) -> list[str]:
    """Hosts whose own files have been due for a long time."""
    if not settings.local_per_host:
        return []
    due = ledger().filter(is_local=True, due_at__lte=seconds_from_now(-IDLE_AFTER))
    hosts: Counter[str] = Counter()
    for rows in due.ranges(reachable(aliases(), known, IDLE_AFTER)):
        hosts.update(dict(rows.values_list("host").annotate(Count("pk")).order_by("host")))
    return [
        counted(count, "{} file", "{} files")
        + f" on the host {host!r} {counted(count, 'has', 'have')} been due for an hour, and no "
        f"worker has processed {counted(count, 'it', 'them')}. Run a worker there: {WORKER}. If "
        f"its disk is lost, run 'manage.py queued_storage give-up {shlex.quote(host)}'."
        for host, count in sorted(hosts.items())
    ]


def _idle_jobs(known: list[Availability]) -> list[str]:
    """Jobs that have been due for a long time."""
    if not are_available():
        return []
    due = jobs().filter(due_at__lte=seconds_from_now(-IDLE_AFTER)).values_list("alias", flat=True)
    idle = len(reachable(due, known, IDLE_AFTER))
    if not idle:
        return []
    return [
        counted(idle, "{} job has", "{} jobs have")
        + " been due for an hour, and no worker has processed any of the files. Run a worker: "
        f"{WORKER}, or cancel the job in the admin."
    ]


def _unknown_aliases(found: list[Tally]) -> list[str]:
    return [
        f"No storage has the alias {alias!r}, so its files cannot be transferred. Name the storage "
        f"in STORAGES, or make sure that the module that creates it is imported."
        for alias in sorted({tally.alias for tally in found if not tally.is_claimed})
    ]


def unfinished_jobs() -> list[Job]:
    """The actions on many files that are pending or running, the oldest first."""
    if not are_available():
        return []
    return list(jobs().unfinished().defer("pks").order_by("pk"))


def _unknown_states(found: list[Tally]) -> list[str]:
    return [
        counted(tally.files, "{} file of", "{} files of")
        + f" {tally.alias!r} {counted(tally.files, 'is', 'are')} in the state {tally.state!r}, "
        f"which this version of queued_storage does not know. Its workers leave such files alone. "
        f"Upgrade all processes to the version that wrote the state."
        for tally in found
        if tally.state not in KNOWN
    ]
