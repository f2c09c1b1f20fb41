"""The views that serve files from this project."""

from typing import Any, cast

from django.core import signing
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseForbidden,
)
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..exceptions import UnknownAlias
from ..files import successors, volumes
from ..files.localfiles import is_unfinished
from ..health import outside_transactions
from ..ledger.aliases import storage_for
from ..ledger.database import ledger
from ..ledger.names import StoredName
from ..ledger.states import State
from . import links
from .delivery import NOT_FOUND, Delivery, ServedStorage, unavailable
from .peers import read_ticket

NOT_ON_THIS_HOST = "The file is not on this host."


@require_safe
@outside_transactions  # the remote may be slow
def file(request: HttpRequest, alias: str, name: str) -> HttpResponseBase:
    """Serve a file at a stable URL: from here until it is on the remote, and from there
    afterwards.

    404 for a file that does not exist, or that is not public; 403 for a URL with an invalid
    signature, and where the project's own permission check refuses.
    """
    storage = _storage(alias)
    stored = StoredName.of(name)
    if stored.text != name or not stored.can_be_recorded or is_unfinished(name):
        raise Http404(NOT_FOUND)
    seconds = version = None
    is_signed = links.is_signed(request.GET)
    if is_signed:
        try:
            seconds = links.seconds_left(storage.alias, name, request.GET)
            version = links.version_in(request.GET)
        except signing.BadSignature:
            return HttpResponseForbidden(gettext("This link is invalid or has expired."))
    elif not storage.has_stable_urls:
        raise Http404(NOT_FOUND)
    delivery = Delivery(
        request, storage, name, is_signed=is_signed, version=version, seconds=seconds
    )
    return delivery.response()


def _storage(alias: str) -> ServedStorage:
    try:
        found: Any = storage_for(alias)
    except UnknownAlias as error:
        raise Http404(NOT_FOUND) from error
    if not hasattr(found, "has_stable_urls"):
        raise Http404(NOT_FOUND)
    storage: ServedStorage = found
    return storage


@require_safe
@never_cache
@outside_transactions  # so may be the network, where local copies are not on a disk
def local_copy(request: HttpRequest, ticket: str) -> HttpResponse | FileResponse:
    """Send the local copy that a ticket of ``peers.ticket_for()`` names to its holder.

    404 if this host does not have the copy, and 503 while its volume is not mounted; 403 for a
    ticket that is invalid or has expired.
    """
    try:
        pk, generation = read_ticket(ticket)
    except signing.BadSignature:
        return HttpResponseForbidden("This ticket is invalid or has expired.")
    rows = ledger().filter(pk=pk, generation=generation, is_local=True).workable_here()
    row = rows.exclude(state=State.DELETING).first()
    if row is None:
        raise Http404(NOT_ON_THIS_HOST)
    storage = cast(ServedStorage, storage_for(row.alias))
    try:
        opened = storage.local.open(successors.current_name(storage.local, row.name, row))
    except FileNotFoundError as error:
        if volumes.is_missing(row.alias, storage.local):
            return unavailable()
        raise Http404(NOT_ON_THIS_HOST) from error
    return FileResponse(
        opened,
        content_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff"},
    )
