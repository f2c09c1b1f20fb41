"""The numbers of the dashboard, from queries whose cost doesn't grow with the ledger.

Every query uses an index and stops after ``LIMIT`` rows, so a count may be a lower bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import nlargest
from typing import Any

from django.db.models import Case, Count, IntegerField, Min, Q, Sum, Value, When

from ..ledger import measures
from ..ledger.aliases import known_storages
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.measures import aliases
from ..ledger.sql.clock import DatabaseNow, database_time, seconds_between
from ..ledger.states import State

LIMIT = 10_000  # rows in one count
ALIASES = 100  # storages
TRANSFERS = 20  # transfers in the list
FAILURES = 10  # failed files in the list
SAMPLE = 500  # rows whose hosts are counted separately if there are more than LIMIT rows
HOSTS = 20  # hosts of these
MINUTES = 15  # period of the charts
OTHER = "other"  # the states that a newer version of the package wrote
OF_STEPS = (State.PREPARING, State.REJECTED)  # shown only if there are such files
SHOWN = (  # in order
    *(State.PENDING, State.TRANSFERRING, State.FAILED, State.HELD, State.DELETING),
    *OF_STEPS,
)


@dataclass
class Pile:
    """Files in one state."""

    files: int = 0
    bytes: int = 0
    oldest: datetime | None = None  # when the oldest was saved
    is_cut: bool = False  # whether counting stopped at LIMIT

    def add(self, files: int, size: int, saved_at: datetime | None) -> None:
        self.files += files
        self.bytes += size
        if saved_at and (self.oldest is None or saved_at < self.oldest):
            self.oldest = saved_at


@dataclass
class Minute:
    """Files transferred in one minute."""

    files: int = 0
    bytes: int = 0


@dataclass
class Share:
    """The files of one storage, of one host, or of all."""

    name: str
    is_known: bool = True  # whether this process has a storage of this alias
    piles: dict[str, Pile] = field(
        default_factory=lambda: {str(state): Pile() for state in (*SHOWN, OTHER)}
    )
    minutes: list[Minute] = field(  # newest first, starting with the last sixty seconds
        default_factory=lambda: [Minute() for _number in range(MINUTES)]
    )

    @property
    def rate(self) -> Minute:
        """Files transferred in the last sixty seconds."""
        return self.minutes[0]


@dataclass(frozen=True)
class Running:
    """A transfer in progress."""

    pk: int
    alias: str
    name: str
    host: str
    size: int
    sent: int
    attempts: int
    is_expired: bool  # whether the lease has expired, because the worker may be dead


@dataclass(frozen=True)
class Failed:
    """A file whose retries are used up."""

    pk: int
    alias: str
    name: str
    error: str


@dataclass
class Overview:
    """The ledger at one moment."""

    at: datetime  # by the database's clock, in UTC
    total: Share = field(default_factory=lambda: Share(""))
    storages: list[Share] = field(default_factory=list)
    hosts: list[Share] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    newest_failures: list[int] = field(default_factory=list)  # ids
    full_minutes: int = MINUTES  # minutes in which all transfers were counted


def overview() -> Overview:
    """Return the numbers of this moment."""
    found = Overview(database_time(ledger_database()))
    known = {storage.alias for storage in known_storages()}
    hosts: dict[str, Share] = {}
    for alias in aliases(ALIASES):
        storage = Share(alias, alias in known)
        found.storages.append(storage)
        shares = _Shares(found.total, storage, hosts)
        rows = ledger().filter(alias=alias)
        for state in SHOWN:
            _count(rows.filter(state=state), state, shares, found)
        if unknown := measures.unknown_states(alias):
            _count(rows.filter(state__in=unknown), OTHER, shares, found)
        _count_transferred(alias, shares, found)
    found.hosts = [hosts[name] for name in sorted(hosts)]
    found.failed = _failed(found.newest_failures)
    return found


def hosts() -> list[str]:
    """Return the hosts of the newest files, and of the files that are due first."""
    found = {*ledger().order_by("-pk").values_list("host", flat=True)[:1000]}
    for rows in measures.ranges():
        first = rows.scheduled().order_by("due_at")
        found.update(first.values_list("host", flat=True)[:1000])
    return sorted(found - {""})


class _Shares:
    """The shares that the files of one storage are counted in."""

    def __init__(self, total: Share, storage: Share, hosts: dict[str, Share]) -> None:
        self.total, self.storage, self.hosts = total, storage, hosts

    def of(self, host: str) -> Iterator[Share]:
        if host not in self.hosts:
            self.hosts[host] = Share(host)
        yield from (self.total, self.storage, self.hosts[host])

    def cut(self, state: str) -> None:
        for share in (self.total, self.storage, *self.hosts.values()):
            share.piles[state].is_cut = True


def _count(rows: QueuedFileQuerySet, state: str, shares: _Shares, found: Overview) -> None:
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
    """Do the same for the first ``LIMIT`` rows, which the ORM cannot group.

    Only hosts of the first rows are counted separately. The others have an empty name.
    """
    hosts = sorted({*rows.values_list("host", flat=True)[:SAMPLE]})[:HOSTS]
    sums = _sums("all", None)
    for number, host in enumerate(hosts):
        sums |= _sums(str(number), Q(host=host))
    found = rows[:LIMIT].aggregate(**sums)
    files, size, oldest = _found(found, "all")
    for number, host in enumerate(hosts):
        own_files, own_size, own_oldest = _found(found, str(number))
        yield host, own_files, own_size, own_oldest
        files -= own_files
        size -= own_size
    if files:
        yield "", files, size, oldest


def _sums(key: str, part: Q | None) -> dict[str, Any]:
    return {
        f"files_{key}": Count("pk", filter=part),
        f"bytes_{key}": Sum("size", filter=part, default=0),
        f"oldest_{key}": Min("saved_at", filter=part),
    }


def _found(sums: dict[str, Any], key: str) -> tuple[int, int, datetime | None]:
    return sums[f"files_{key}"], sums[f"bytes_{key}"], sums[f"oldest_{key}"]


def _failed(pks: list[int]) -> list[Failed]:
    rows = ledger().filter(pk__in=pks).order_by("-pk")
    return [Failed(*row) for row in rows.values_list("pk", "alias", "name", "last_error")]


def _running(rows: QueuedFileQuerySet) -> list[Running]:
    columns = ("pk", "alias", "name", "host", "size", "sent", "attempts", "is_expired")
    running = rows.annotate(is_expired=Q(due_at__lte=DatabaseNow())).values_list(*columns)
    return [Running(*row) for row in running.order_by("pk")[:TRANSFERS]]


def _count_transferred(alias: str, shares: _Shares, found: Overview) -> None:
    """Count the transfers of the last minutes, or of fewer minutes if there are very many."""
    ends = [found.at - timedelta(minutes=ago) for ago in range(1, MINUTES + 1)]
    rows = ledger().filter(alias=alias, state=State.TRANSFERRED, transferred_at__gt=ends[-1])
    times = rows.order_by("-transferred_at").values_list("transferred_at", flat=True)
    if oldest := next(iter(times[LIMIT * 5 : LIMIT * 5 + 1]), None):
        rows = rows.filter(transferred_at__gt=oldest)
        age = seconds_between(oldest, found.at)
        found.full_minutes = min(found.full_minutes, int(age // 60))
    minute = Case(
        *(When(transferred_at__gt=end, then=Value(ago)) for ago, end in enumerate(ends)),
        output_field=IntegerField(),
    )
    numbers: Any = rows.values_list("host", minute).annotate(Count("pk"), Sum("size")).order_by()
    for host, ago, files, size in numbers:
        for share in shares.of(host):
            share.minutes[ago].files += files
            share.minutes[ago].bytes += size
