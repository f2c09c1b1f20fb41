"""The health check of the ledger, in Python and over HTTP."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .ledger import measures, schema
from .ledger.availability import (
    Availability,
    availabilities,
    beside_them,
    reachable,
    unclaimed,
)
from .ledger.copy_counts import lacks
from .ledger.localsides import longest_full
from .ledger.measures import Overdue, Unsettled
from .ledger.preparations import PreparationState, counts
from .ledger.states import State
from .reporting.counts import counted
from .reporting.logs import logger
from .reporting.reasons import reason
from .runtime import hung

MAX_AWAY = 300.0  # seconds for which a remote may be closed, if there is any other limit
TIMEOUT = 3.0  # seconds that the ledger may take to respond
OUTDATED = "The ledger's tables are older than this version. Run 'manage.py migrate'."


@dataclass(frozen=True)
class Limits:
    """The limits of a health check; None for what is not checked."""

    max_age: float | None = None  # seconds since the oldest pending file was saved
    max_overdue: float | None = (
        None  # seconds that a file has been due without a worker processing it
    )
    max_failed: int | None = None  # failed files
    max_held: int | None = None  # files that are held, because a step could not be run
    max_stalled: int | None = None  # files whose last attempt hung
    max_pending: int | None = None  # pending and transferring files
    max_pending_bytes: int | None = None  # the size of these files
    max_away: float | None = None  # seconds that a remote has been closed; see MAX_AWAY
    max_full: float | None = None  # seconds that a local storage has been full


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Health:
    """The result of a health check. The problems contain no names of files, and no secrets."""

    is_reachable: bool  # whether the ledger responded
    problems: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        return not self.problems


def check(limits: Limits = NO_LIMITS, timeout: float = TIMEOUT) -> Health:
    """Query the ledger, and compare the numbers with the limits.

    Without limits, check only that the ledger responds within ``timeout`` seconds, which is what a
    load balancer needs. The remote is not called.
    """
    try:
        return Health(True, tuple(measures.in_time(partial(_problems, limits), timeout)))
    except TimeoutError as error:
        logger.error("%s", error)
        return Health(False, (str(error),))
    except Exception as error:
        if problem := _explanation(error, timeout):
            logger.error("%s", problem)
            return Health(False, (OUTDATED,))
        # The messages of database drivers name hosts and users, so they are only logged.
        logger.error("The ledger cannot be queried: %s", reason(error))
        return Health(False, (f"The ledger cannot be queried ({type(error).__name__}).",))


def _explanation(error: Exception, timeout: float) -> str:
    with suppress(TimeoutError):
        return measures.in_time(partial(schema.explanation, error), timeout)
    return ""


def _problems(limits: Limits) -> list[str]:
    schema.probe()
    if limits == NO_LIMITS:
        return []
    remotes = availabilities()
    known = [each for each in remotes if each.is_configured]
    overdue = unclaimed(known) if limits.max_overdue is not None else []
    stalled = measures.stalled() if limits.max_stalled is not None else {}
    hanging = sum(stalled[alias] for alias in reachable(stalled, known))
    found = [
        *_closed(limits, [*known, *beside_them(remotes)]),
        *_exceeded(limits, measures.unsettled(), known, overdue, hanging),
        *_failed_copies(limits, remotes),
        *_held(limits),
    ]
    if limits.max_full is not None and (full := longest_full()) > limits.max_full:
        found.append(
            f"A local storage has been full for {full:,.0f} seconds; the limit is "
            f"{limits.max_full:,.0f}."
        )
    if hung.are_too_many():
        found.append("Too many threads of this process hang. Restart it.")
    return found


def _closed(limits: Limits, known: list[Availability]) -> list[str]:
    """How long remotes have been closed. Their names and errors are not for everybody."""
    limit = MAX_AWAY if limits.max_away is None else limits.max_away
    ages = [(remote.age, remote.is_paused) for remote in known if not remote.is_open]
    return [
        f"A remote has been {'paused' if is_paused else 'closed'} for {age:,.0f} seconds; the "
        f"limit is {limit:,.0f}."
        for age, is_paused in ages
        if age > limit
    ]


def _failed_copies(limits: Limits, remotes: list[Availability]) -> list[str]:
    if limits.max_failed is None:
        return []
    failed = sum(lack.failed for _remote, lack in lacks(remotes))
    if failed <= limits.max_failed:
        return []
    text = counted(failed, "{} copy on a mirror has", "{} copies on mirrors have")
    return [f"{text} failed; the limit is {limits.max_failed:,}."]


def _exceeded(
    limits: Limits,
    rows: list[Unsettled],
    known: list[Availability],
    overdue: list[Overdue],
    stalled: int,
) -> list[str]:
    pending = [row for row in rows if row.state in (State.PENDING, State.TRANSFERRING)]
    moving = reachable({row.alias for row in pending}, known)
    age = max((row.age for row in pending if row.alias in moving), default=0)
    due_for = max((row.age for row in overdue), default=0)
    failed = sum(row.files for row in rows if row.state == State.FAILED)
    files = sum(row.files for row in pending)
    size = sum(row.bytes for row in pending)
    found = (
        (age, limits.max_age, f"The oldest pending file is {age:,.0f} seconds old"),
        (
            due_for,
            limits.max_overdue,
            f"A file has been due for {due_for:,.0f} seconds without a worker processing it",
        ),
        (failed, limits.max_failed, counted(failed, "{} file has failed", "{} files have failed")),
        (
            stalled,
            limits.max_stalled,
            counted(stalled, "{} transfer hangs", "{} transfers hang"),
        ),
        (files, limits.max_pending, counted(files, "{} file is pending", "{} files are pending")),
        (
            size,
            limits.max_pending_bytes,
            counted(size, "{} byte is pending", "{} bytes are pending"),
        ),
    )
    return [
        f"{text}; the limit is {limit:,}."
        for value, limit, text in found
        if limit is not None and value > limit
    ]


def _held(limits: Limits) -> list[str]:
    if limits.max_held is None:
        return []
    held = sum(row.files for row in counts() if row.state == PreparationState.HELD)
    if held <= limits.max_held:
        return []
    files = counted(held, "{} file is", "{} files are")
    return [f"{files} held, because a step could not be run; the limit is {limits.max_held:,}."]


View = TypeVar("View", bound=Callable[..., Any])


def outside_transactions(view: View) -> View:
    """Exempt a view from ``ATOMIC_REQUESTS``.

    Without a database, the view could not be called. A view that waits for a remote would hold
    locks, or on SQLite all other writes, for as long.
    """
    for database in connections:
        transaction.non_atomic_requests(database)(view)
    return view


@require_safe
@never_cache
@outside_transactions
def health(request: HttpRequest) -> HttpResponse:
    """Return status 200, or 503 with the problems as JSON.

    The limits are query parameters, as in ``?max_failed=0&max_age=3600``. An unknown parameter or
    an invalid value returns status 400, so that it isn't mistaken for a healthy service.
    """
    try:
        limits = Limits(**{name: _limit(request.GET[name]) for name in request.GET})
    except (TypeError, ValueError):
        known = ", ".join(field.name for field in fields(Limits))
        return HttpResponseBadRequest(
            f"The parameters must be whole numbers. Known parameters: {known}.",
            content_type="text/plain",
        )
    found = check(limits)
    answer = {"status": "ok" if found.is_well else "unwell", "problems": found.problems}
    return JsonResponse(answer, status=200 if found.is_well else 503)


def _limit(text: Any) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value
