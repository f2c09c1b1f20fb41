"""What the ledger says of all files in numbers, for monitoring.

The files that are settled may be millions, so nothing here but ``settled()`` looks at them.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db import connections, transaction
from django.db.models import Case, CharField, Count, F, Max, Min, Q, Sum, Value, When
from django.db.models.functions import Coalesce

from ..conf import settings
from .database import ledger, ledger_database
from .sql.clock import DatabaseNow
from .states import State

Answer = TypeVar("Answer")

UNSETTLED = tuple(str(state) for state in State if state != State.TRANSFERRED)
_MOST_WAITING = 4  # threads that a database which hangs can hold
_NOW = Max(DatabaseNow())  # an aggregate, so that it makes no groups


@dataclass(frozen=True)
class Unsettled:
    """The files of one storage in one state, and on one host where each has its own disk."""

    alias: str
    state: str
    host: str  # "" where all hosts share the local storage
    files: int
    bytes: int
    age: float  # seconds since the first of them was saved
    stuck: int  # deletes that have failed more often than a transfer may


@dataclass(frozen=True)
class Overdue:
    """The files of one storage that somebody should be working on."""

    alias: str
    host: str
    files: int
    age: float  # seconds since the first of them became due


@dataclass(frozen=True)
class Settled:
    """The transferred files of one storage."""

    alias: str
    files: int
    bytes: int
    local_bytes: int  # those of them that have a local copy, too


def unsettled() -> list[Unsettled]:
    """All that is not on the remote, from the index of storages and states."""
    stuck = Count("pk", filter=Q(state=State.DELETING, attempts__gt=settings.retries))
    rows: Any = (
        ledger()
        .filter(alias__in=aliases(), state__in=UNSETTLED)
        .values_list("alias", "state", _host())
        .annotate(Count("pk"), Sum("size"), Min("saved_at"), now=_NOW, stuck=stuck)
        .order_by("alias", "state")
    )
    return [
        Unsettled(alias, state, host, files, size, _age(oldest, now), failing)
        for alias, state, host, files, size, oldest, now, failing in rows
    ]


def overdue() -> list[Overdue]:
    """The rows that are due, from their index. Of those under a lease only dead workers' are."""
    # Grouped by the column itself, SQLite would rather read all rows in the order of an index.
    alias = Coalesce("alias", Value(""))
    due = ledger().due().order_by().values_list(alias, _host())
    rows: Any = due.annotate(Count("pk"), Min("due_at"), now=_NOW)
    return sorted(
        (Overdue(alias, host, files, _age(since, now)) for alias, host, files, since, now in rows),
        key=lambda row: (row.alias, row.host),
    )


def settled() -> list[Settled]:
    """How much is on the remote. It reads every row of theirs, so it is not to be asked often."""
    local = Sum("size", filter=Q(is_local=True))
    rows: Any = (
        ledger()
        .filter(state=State.TRANSFERRED)
        .values_list("alias")
        .annotate(Count("pk"), Sum("size"), local=local)
        .order_by("alias")
    )
    return [Settled(alias, files, size, here or 0) for alias, files, size, here in rows]


def aliases() -> list[str]:
    """Every alias that has rows, each by one look into the index instead of a pass over it."""
    return list(_aliases())


def _aliases() -> Iterator[str]:
    rows = ledger().order_by("alias").values_list("alias", flat=True)
    last = rows.first()
    while last is not None:
        yield last
        last = rows.filter(alias__gt=last).first()


def _host() -> Any:
    """The host where it matters, else nothing: names of containers would never come to an end."""
    if not settings.local_per_host:
        return Value("", output_field=CharField())
    return Case(When(is_local=True, then=F("host")), default=Value(""), output_field=CharField())


def _age(since: datetime, now: datetime) -> float:
    return max((now - since).total_seconds(), 0.0)


# A limit of time


def in_time(question: Callable[[], Answer], seconds: float) -> Answer:
    """What the ledger answers; ``TimeoutError`` if it does not within so many seconds.

    It is asked in a thread, on a connection of its own, since no option of all databases bounds
    both the connecting and the asking. Inside a transaction, as in a ``TestCase``, nobody else
    would see the rows, so it is asked right here.
    """
    if transaction.get_connection(ledger_database()).in_atomic_block:
        return question()
    late = TimeoutError(f"The ledger did not answer within {seconds:g} seconds.")
    deadline = time.monotonic() + seconds
    if not _places.acquire(timeout=seconds):
        raise late
    inquiry = _Inquiry(question)
    try:
        inquiry.start()
    except BaseException:  # no thread, so nobody gives the place back
        _places.release()
        raise
    inquiry.join(max(deadline - time.monotonic(), 0))
    if inquiry.is_alive():
        raise late
    if inquiry.error:
        raise inquiry.error
    answer: Answer = inquiry.answer
    return answer


_places = threading.BoundedSemaphore(_MOST_WAITING)


class _Inquiry(threading.Thread):
    def __init__(self, question: Callable[[], Any]) -> None:
        super().__init__(name="queued-storage-inquiry", daemon=True)
        self._question = question
        self.answer: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answer = self._question()
        except Exception as error:
            self.error = error
        finally:
            connections.close_all()
            _places.release()
