"""Whether files can be saved, and whether they are on their way."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .ledger import measures
from .ledger.database import ledger
from .ledger.measures import Overdue, Unsettled
from .ledger.states import State
from .reporting.logs import logger
from .reporting.reasons import reason

TIMEOUT = 3.0  # seconds that the ledger may take to answer


@dataclass(frozen=True)
class Limits:
    """How much is still well; None for what is not looked at."""

    max_age: float | None = None  # seconds since the oldest pending file was saved
    max_overdue: float | None = None  # seconds that a file may be due with nobody working on it
    max_failed: int | None = None  # files
    max_pending: int | None = None  # files
    max_pending_bytes: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Health:
    """What is wrong; nothing if all is well. No text names a file, an address or a secret."""

    is_reachable: bool  # whether the ledger answered
    problems: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        return not self.problems


def check(limits: Limits = NO_LIMITS, timeout: float = TIMEOUT) -> Health:
    """Ask the ledger, and compare its answer with the limits.

    Without limits it is whether the ledger answers within ``timeout`` seconds: what a load
    balancer needs to know of a host. The remote is not asked; no request waits for it either.
    """

    def question() -> list[str]:
        if limits == NO_LIMITS:
            ledger().exists()
            return []
        overdue = measures.overdue() if limits.max_overdue is not None else []
        return _exceeded(limits, measures.unsettled(), overdue)

    try:
        return Health(True, tuple(measures.in_time(question, timeout)))
    except TimeoutError as error:
        logger.error("%s", error)
        return Health(False, (str(error),))
    except Exception as error:
        # The texts of drivers name hosts and users, which are for the log only.
        logger.error("The ledger cannot be asked: %s", reason(error))
        return Health(False, (f"The ledger cannot be asked ({type(error).__name__}).",))


def _exceeded(limits: Limits, rows: list[Unsettled], overdue: list[Overdue]) -> list[str]:
    waiting = [row for row in rows if row.state in (State.PENDING, State.TRANSFERRING)]
    found = (
        (
            "The oldest pending file is {:.0f} seconds old",
            max((row.age for row in waiting), default=0),
            limits.max_age,
        ),
        (
            "A file has been due for {:.0f} seconds and nobody works on it",
            max((row.age for row in overdue), default=0),
            limits.max_overdue,
        ),
        (
            "{} files have failed",
            sum(row.files for row in rows if row.state == State.FAILED),
            limits.max_failed,
        ),
        ("{} files are pending", sum(row.files for row in waiting), limits.max_pending),
        ("{} bytes are pending", sum(row.bytes for row in waiting), limits.max_pending_bytes),
    )
    return [
        f"{text.format(value)}; the limit is {limit:g}."
        for text, value, limit in found
        if limit is not None and value > limit
    ]


View = Callable[[HttpRequest], HttpResponse]


def outside_transactions(view: View) -> View:
    """With ``ATOMIC_REQUESTS`` a database that is away would keep the view from being called."""
    for database in connections:
        transaction.non_atomic_requests(database)(view)
    return view


@require_safe
@never_cache
@outside_transactions
def health(request: HttpRequest) -> HttpResponse:
    """200 if all is well, 503 if not, with the problems as JSON.

    Limits are given as parameters, as in ``?max_failed=0&max_age=3600``; a misspelt one must not
    pass for well, so it is a 400.
    """
    try:
        limits = Limits(**{name: _limit(request.GET[name]) for name in request.GET})
    except (TypeError, ValueError):
        known = ", ".join(field.name for field in fields(Limits))
        return HttpResponseBadRequest(f"Limits are numbers of {known}.", content_type="text/plain")
    found = check(limits)
    answer = {"status": "ok" if found.is_well else "unwell", "problems": found.problems}
    return JsonResponse(answer, status=200 if found.is_well else 503)


def _limit(text: Any) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value
