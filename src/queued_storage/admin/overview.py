"""What is on its way now, in queries whose cost does not grow with the ledger.

Every query walks an index and stops after ``LIMIT`` rows. So a count may be one of "at least".
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import Any

from django.db.models import Count, Min, Q, Sum
from django.db.models.functions import TruncSecond
from django.utils import timezone

from ..ledger.aliases import known_storages
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.sql.clock import DatabaseNow
from ..ledger.states import State

LIMIT = 10_000  # rows that one count looks at
ALIASES = 100  # storages that are looked for
TRANSFERS = 20  # that are listed
FAILURES = 10  # the same
SAMPLE = 500  # rows whose hosts are told apart where there are more than LIMIT
HOSTS = 20  # of these
MINUTES = 15  # how far back the rates go
UNSETTLED = (State.PENDING, State.TRANSFERRING, State.FAILED, State.HELD, State.DELETING)


@dataclass
class Pile:
    """Files in one state."""

    files: int = 0
    bytes: int = 0
    oldest: datetime | None = None  # when the first of them was saved
    is_cut: bool = False  # whether there are more than were counted

    def add(self, files: int, size: int, saved_at: datetime | None) -> None:
        self.files += files
        self.bytes += size
        if saved_at and (self.oldest is None or saved_at < self.oldest):
            self.oldest = saved_at


@dataclass
class Minute:
    """What was transferred in one minute."""

    files: int = 0
    bytes: int = 0


@dataclass
class Share:
    """The part of one storage, of one host, or of all."""

    name: str
    is_claimed: bool = True  # whether a storage of this process has the alias
    piles: dict[str, Pile] = field(
        default_factory=lambda: {str(state): Pile() for state in UNSETTLED}
    )
    minutes: list[Minute] = field(  # the newest first; the first are the last sixty seconds
        default_factory=lambda: [Minute() for _number in range(MINUTES)]
    )

    @property
    def rate(self) -> Minute:
        """What was transferred in the last sixty seconds."""
        return self.minutes[0]


@dataclass(frozen=True)
class Running:
    """A transfer that a worker has at this moment."""

    pk: int
    alias: str
    name: str
    host: str
    size: int
    sent: int
    attempts: int
    is_silent: bool  # whether its lease has ended: the worker may be dead


@dataclass(frozen=True)
class Failed:
    """A file that nobody tries any more."""

    pk: int
    alias: str
    name: str
    error: str


@dataclass
class Overview:
    """The ledger at one moment."""

    at: datetime
    total: Share = field(default_factory=lambda: Share(""))
    storages: list[Share] = field(default_factory=list)
    hosts: list[Share] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    newest_failures: list[int] = field(default_factory=list)  # their ids
    full_minutes: int = MINUTES  # how far back all transfers were counted


def overview() -> Overview:
    """Look at the ledger now."""
    found = Overview(timezone.now())
    known = {storage.alias for storage in known_storages()}
    hosts: dict[str, Share] = {}
    for alias in aliases():
        storage = Share(alias, alias in known)
        found.storages.append(storage)
        shares = _Shares(found.total, storage, hosts)
        for state in UNSETTLED:
            _count(alias, state, shares, found)
        _count_transferred(alias, shares, found)
    found.hosts = [hosts[name] for name in sorted(hosts)]
    found.failed = _failed(found.newest_failures)
    return found


def aliases() -> list[str]:
    """The storages that have rows; each costs one step along the index."""
    names = ledger().order_by("alias").values_list("alias", flat=True)
    found: list[str] = []
    last = ""
    while len(found) < ALIASES and (last := names.filter(alias__gt=last).first() or ""):
        found.append(last)
    return found


def hosts() -> list[str]:
    """The hosts of the newest files and of those that are due first."""
    rows = ledger().values_list("host", flat=True)
    newest = rows.order_by("-pk")[:1000]
    due = rows.filter(due_at__isnull=False).order_by("due_at")[:1000]
    return sorted({*newest, *due} - {""})


class _Shares:
    """Whose numbers a row goes into."""

    def __init__(self, total: Share, storage: Share, hosts: dict[str, Share]) -> None:
        self.total, self.storage, self.hosts = total, storage, hosts

    def of(self, host: str) -> Iterator[Share]:
        if host not in self.hosts:
            self.hosts[host] = Share(host)
        yield from (self.total, self.storage, self.hosts[host])

    def cut(self, state: State) -> None:
        for share in (self.total, self.storage, *self.hosts.values()):
            share.piles[state].is_cut = True


def _count(alias: str, state: State, shares: _Shares, found: Overview) -> None:
    rows = ledger().filter(alias=alias, state=state)
    if not (count := rows.values("pk")[: LIMIT + 1].count()):
        return
    is_cut = count > LIMIT
    for host, *numbers in _first_by_host(rows) if is_cut else _all_by_host(rows):
        for share in shares.of(host):
            share.piles[state].add(*numbers)
    if is_cut:
        shares.cut(state)
    if state == State.TRANSFERRING:
        found.running += _running(rows)[: TRANSFERS - len(found.running)]
    if state == State.FAILED:
        pks = (rows if is_cut else rows.order_by("-pk")).values_list("pk", flat=True)
        found.newest_failures = nlargest(FAILURES, [*found.newest_failures, *pks[:FAILURES]])


def _all_by_host(rows: QueuedFileQuerySet) -> Any:
    numbers = (Count("pk"), Sum("size"), Min("saved_at"))
    return rows.order_by().values_list("host").annotate(*numbers)


def _first_by_host(rows: QueuedFileQuerySet) -> Iterator[tuple[str, int, int, datetime | None]]:
    """The same of the first ``LIMIT`` rows, which the ORM cannot group: hosts that are not among
    the first few go under no name."""
    names = [None, *sorted({*rows.values_list("host", flat=True)[:SAMPLE]})[:HOSTS]]
    sums: dict[str, Any] = {}
    for number, name in enumerate(names):
        part = None if name is None else Q(host=name)
        sums[f"files_{number}"] = Count("pk", filter=part)
        sums[f"bytes_{number}"] = Sum("size", filter=part, default=0)
        sums[f"oldest_{number}"] = Min("saved_at", filter=part)
    found = rows[:LIMIT].aggregate(**sums)
    files, size, oldest = (found[f"{key}_0"] for key in ("files", "bytes", "oldest"))
    for number, name in enumerate(names[1:], 1):
        yield str(name), *(found[f"{key}_{number}"] for key in ("files", "bytes", "oldest"))
        files -= found[f"files_{number}"]
        size -= found[f"bytes_{number}"]
    if files:
        yield "", files, size, oldest


def _failed(pks: list[int]) -> list[Failed]:
    rows = ledger().filter(pk__in=pks).order_by("-pk")
    return [Failed(*row) for row in rows.values_list("pk", "alias", "name", "last_error")]


def _running(rows: QueuedFileQuerySet) -> list[Running]:
    columns = ("pk", "alias", "name", "host", "size", "sent", "attempts", "is_silent")
    running = rows.annotate(is_silent=Q(due_at__lte=DatabaseNow())).values_list(*columns)
    return [Running(*row) for row in running[:TRANSFERS]]


def _count_transferred(alias: str, shares: _Shares, found: Overview) -> None:
    """Put the files of the last minutes where they belong, by the second; of very many, those of
    fewer minutes."""
    since = found.at - timedelta(minutes=MINUTES)
    rows = ledger().filter(alias=alias, state=State.TRANSFERRED, transferred_at__gt=since)
    times = rows.order_by("-transferred_at").values_list("transferred_at", flat=True)
    if oldest := next(iter(times[LIMIT * 5 : LIMIT * 5 + 1]), None):
        rows = rows.filter(transferred_at__gt=oldest)
        age = (found.at - oldest).total_seconds()
        found.full_minutes = min(found.full_minutes, int(age // 60))
    seconds: Any = (
        rows.values_list("host", TruncSecond("transferred_at", tzinfo=UTC))
        .annotate(Count("pk"), Sum("size"))
        .order_by()
    )
    for host, second, files, size in seconds.iterator():
        minute = max(0, int((found.at - second).total_seconds() // 60))
        if minute < MINUTES:
            for share in shares.of(host):
                share.minutes[minute].files += files
                share.minutes[minute].bytes += size
