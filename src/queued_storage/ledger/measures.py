"""Numbers of files in the ledger for monitoring.

Millions of files may be transferred, so no function except ``settled()`` reads their rows.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

from django.db import connections
from django.db.models import (
    Case,
    CharField,
    Count,
    DurationField,
    ExpressionWrapper,
    F,
    Max,
    Min,
    Q,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from ..conf import settings
from ..exceptions import TransferStalled
from .database import QueuedFileQuerySet, in_transaction, ledger
from .priorities import PRIORITIES
from .sql.clock import DatabaseNow
from .states import KNOWN, State

Answer = TypeVar("Answer")

UNSETTLED = tuple(str(state) for state in State if state != State.TRANSFERRED)
_MOST_WAITING = 4  # threads that can wait for a hanging database
_NOW = Max(DatabaseNow())  # an aggregate, so that it doesn't become part of GROUP BY


@dataclass(frozen=True)
class Unsettled:
    """The files of one storage in one state; of one host, if hosts don't share local storage."""

    alias: str
    state: str
    host: str  # "" if all hosts share the local storage
    files: int
    bytes: int
    age: float  # seconds since the oldest of them was saved
    stuck: int  # deletes that failed more often than RETRIES allows for a transfer


@dataclass(frozen=True)
class Overdue:
    """The due files of one storage that no worker has claimed."""

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
    local_bytes: int  # of the files that still have a local copy


def unsettled() -> list[Unsettled]:
    """Count the files that are not on the remote, from the index of storages and states."""
    stuck = Count("pk", filter=Q(state=State.DELETING, attempts__gt=settings.retries))
    rows: Any = (
        ledger()
        .filter(alias__in=aliases())
        .unsettled()
        .values_list("alias", "state", _host())
        .annotate(Count("pk"), Sum("size"), age=_age("saved_at"), stuck=stuck)
        .order_by("alias", "state")
    )
    return [
        Unsettled(alias, state, host, files, size, _seconds(age), failing)
        for alias, state, host, files, size, age, failing in rows
    ]


def overdue() -> list[Overdue]:
    """Count the due rows, including those with an expired lease, from their index."""
    # If grouped by the column itself, SQLite would read all rows in the order of an index.
    alias = Coalesce("alias", Value(""))
    found: dict[tuple[str, str], Overdue] = {}
    for due in ledger().due().ranges(aliases()):
        by_host = due.order_by().values_list(alias, _host())
        rows: Any = by_host.annotate(Count("pk"), age=_age("due_at"))
        for its_alias, host, files, age in rows:
            last = found.get((its_alias, host), Overdue(its_alias, host, 0, 0.0))
            sums = last.files + files, max(last.age, _seconds(age))
            found[its_alias, host] = Overdue(its_alias, host, *sums)
    return [found[key] for key in sorted(found)]


def due_by_priority() -> dict[tuple[str, int], int]:
    """Count the due rows of each storage and priority that has some."""
    alias = Coalesce("alias", Value(""))
    found: dict[tuple[str, int], int] = {}
    for priority, due in zip(PRIORITIES, ledger().due().ranges(aliases()), strict=True):
        rows: Any = due.order_by().values_list(alias).annotate(Count("pk"))
        found |= {(its_alias, priority): files for its_alias, files in rows}
    return dict(sorted(found.items()))


def stalled() -> dict[str, int]:
    """Count the files by storage whose last attempt hung until ``STALL_TIMEOUT``, and that wait for
    the next one or are in it."""
    states = [State.PENDING, State.TRANSFERRING, State.DELETING]
    rows = ledger().filter(alias__in=aliases(), state__in=states)
    rows = rows.filter(last_error__startswith=f"{TransferStalled.__name__}:")
    return dict(rows.values_list("alias").annotate(Count("pk")).order_by("alias"))


def settled() -> list[Settled]:
    """Count the transferred files. It reads each of their rows, so don't call it often."""
    local = Sum("size", filter=Q(is_local=True))
    rows: Any = (
        ledger()
        .filter(state=State.TRANSFERRED)
        .values_list("alias")
        .annotate(Count("pk"), Sum("size"), local=local)
        .order_by("alias")
    )
    return [Settled(alias, files, size, here or 0) for alias, files, size, here in rows]


def last_transfer(alias: str) -> datetime | None:
    """When a file of this storage was last transferred."""
    rows = ledger().filter(alias=alias, state=State.TRANSFERRED, transferred_at__isnull=False)
    return rows.order_by("-transferred_at").values_list("transferred_at", flat=True).first()


def aliases(limit: int | None = None) -> list[str]:
    """Return every alias that has rows, or the first ``limit``, with one index lookup per alias."""
    return list(islice(_aliases(), limit))


def _aliases() -> Iterator[str]:
    rows = ledger().order_by("alias").values_list("alias", flat=True)
    last: str | None = ""
    while last := rows.filter(alias__gt=last).first():
        yield last


def unknown_states(alias: str) -> list[str]:
    """Return the states of rows of this alias that a newer version wrote, with one index lookup
    for each state that there is. For all that is not known, SQLite would read every row."""
    return [state for state in _states(alias) if state not in KNOWN]


def _states(alias: str) -> Iterator[str]:
    rows = ledger().filter(alias=alias).order_by("state").values_list("state", flat=True)
    last: str | None = ""
    while last := rows.filter(state__gt=last).first():
        yield last


def ranges(of: Iterable[str] | None = None) -> Iterator[QueuedFileQuerySet]:
    """Yield the rows of each alias and priority, which an index has in the order of ``due_at``.

    ``of`` are the aliases, if not all.
    """
    for alias in aliases() if of is None else of:
        for priority in PRIORITIES:
            yield ledger().filter(alias=alias, priority=priority)


def _host() -> Any:
    """The host if each has its own disk, or else "": containers have ever new host names."""
    if not settings.local_per_host:
        return Value("", output_field=CharField())
    return Case(When(is_local=True, then=F("host")), default=Value(""), output_field=CharField())


def _age(column: str) -> Any:
    """The time since the first time in the column. Without ``USE_TZ``, Python could not tell."""
    return ExpressionWrapper(_NOW - Min(column), output_field=DurationField())


def _seconds(age: timedelta) -> float:
    return max(age.total_seconds(), 0.0)


# Time limit


def in_time(
    question: Callable[[], Answer], seconds: float, *, places: threading.Semaphore | None = None
) -> Answer:
    """Query the ledger; ``TimeoutError`` is raised if it takes longer than ``seconds``.

    The query runs in a thread with its own connection, because no option that all databases have
    limits the time for both connecting and querying. Inside a transaction, as in a ``TestCase``,
    other connections don't see the rows, so the query runs in the calling thread, unless ``places``
    is given: the number of threads that may run. Then the query is no part of the transaction.
    """
    if in_transaction() and places is None:
        return question()
    places = places or _places
    late = TimeoutError(f"The ledger did not respond within {seconds:g} seconds.")
    deadline = time.monotonic() + seconds
    if not places.acquire(timeout=seconds):
        raise late
    inquiry = _Inquiry(question, places)
    try:
        inquiry.start()
    except BaseException:  # without a thread, nothing else releases the place
        places.release()
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
    def __init__(self, question: Callable[[], Any], places: threading.Semaphore) -> None:
        super().__init__(name="queued-storage-inquiry", daemon=True)
        self._places = places
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
            self._places.release()
