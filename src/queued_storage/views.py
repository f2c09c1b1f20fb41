"""What one host of the project asks another one for."""

from typing import Any

from django.core import signing
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseForbidden
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .aliases import storage_for
from .models import State, ledger
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
