"""What one host of the project asks another one for, and what monitoring asks it."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from django.core import signing
from django.db import connections, transaction
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
    JsonResponse,
)
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .health import Limits, check
from .ledger.aliases import storage_for
from .ledger.database import ledger
from .ledger.states import State
from .peers import read_ticket


@require_safe
@never_cache
def local_copy(request: HttpRequest, ticket: str) -> HttpResponse | FileResponse:
    """Send the local copy that a ticket of ``peers.ticket_for()`` names, to who holds the ticket.

    404 if this host has it no more; 403 for a ticket that is too old, or that nobody gave out.
    """
    try:
        pk, generation = read_ticket(ticket)
    except signing.BadSignature:
        return HttpResponseForbidden("The ticket is not valid any more.")
    rows = ledger().filter(pk=pk, generation=generation, is_local=True).workable_here()
    row = rows.exclude(state=State.DELETING).first()
    if row is None:
        raise Http404("The file is not on this host.")
    storage: Any = storage_for(row.alias)
    try:
        file = storage.local.open(row.name)
    except FileNotFoundError as error:
        raise Http404("The file is not on this host.") from error
    return FileResponse(
        file,
        content_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff"},
    )


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
