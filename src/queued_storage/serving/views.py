"""The view behind the addresses at which the project itself serves files."""

import mimetypes
import os
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import quote

from django.core import signing
from django.core.exceptions import PermissionDenied
from django.core.files import File
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseForbidden,
    HttpResponseRedirect,
)
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..conf import settings
from ..exceptions import FileElsewhere, UnknownAlias
from ..files import readcache
from ..files.localfiles import has_paths, is_as_on_disk, is_directory, is_unfinished
from ..ledger.aliases import storage_for
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.names import can_be_recorded, tidy
from ..ledger.states import State, is_reachable_from_here
from ..remotes.expiry import lifetime_of, url_within
from ..reporting.logs import logger
from ..reporting.reasons import reason
from . import links
from .peers import read_ticket
from .responses import Facts, FromElsewhere, OpenFile, handed_over, respond

LOOKS = 3  # at the ledger, for a file that moves while it is asked for
RETRY_AFTER = 5  # seconds, for a file that only another host has yet
REDIRECT_MAX_AGE = 60  # seconds; less where the remote's address ends sooner
CACHED_AS_A_WHOLE = 8 * 1024 * 1024  # bytes; who asks for a larger file need not wait for all of it
NOT_FOUND = "There is no such file."


@require_safe
def file(request: HttpRequest, alias: str, name: str) -> HttpResponseBase:
    """A file at an address that stays the same: from here until it is on the remote, and from
    there afterwards.

    404 for a file that there is not, or that is not for everybody; 403 for an address whose
    signature does not hold, and where the project's own permission says no.
    """
    storage = _storage(alias)
    if tidy(name) != name or not can_be_recorded(name) or is_unfinished(name):
        raise Http404(NOT_FOUND)
    seconds = None
    is_signed = links.is_signed(request.GET)
    if is_signed:
        try:
            seconds = links.seconds_left(storage.alias, name, request.GET)
        except signing.BadSignature:
            return HttpResponseForbidden("This address is not valid any more.")
    elif not storage.has_stable_urls:
        raise Http404(NOT_FOUND)
    return _Answer(request, storage, name, is_signed, seconds).give()


def _storage(alias: str) -> Any:
    try:
        storage: Any = storage_for(alias)
    except UnknownAlias as error:
        raise Http404(NOT_FOUND) from error
    if not hasattr(storage, "has_stable_urls"):
        raise Http404(NOT_FOUND)
    return storage


class _Answer:
    """What one request for one file gets."""

    def __init__(
        self, request: HttpRequest, storage: Any, name: str, is_signed: bool, seconds: float | None
    ) -> None:
        self.request = request
        self.storage = storage
        self.name = name
        self.is_signed = is_signed
        self.seconds = seconds  # that the address is still good for

    def give(self) -> HttpResponseBase:
        row = self._row()
        permission = _permission()
        if permission and not permission(self.request, row):
            raise PermissionDenied
        for _look in range(LOOKS):
            if row.state == State.DELETING:
                break
            if row.is_remote:
                return self._from_remote(row)
            if answer := self._from_here(row):
                return answer
            if row.pk and row.is_local and not is_reachable_from_here(row.host):
                return self._from_another_host(row)
            row = self._row()  # it may have been transferred and freed between the two looks
        raise Http404(NOT_FOUND)

    def _row(self) -> QueuedFile:
        """Of a file that predates the ledger one that is not saved; only a signature shows that
        the project has such a file."""
        row = ledger().named(self.storage.alias, self.name).first()
        if row is None and not self.is_signed:
            raise Http404(NOT_FOUND)
        return row or self._row_of_unrecorded()

    def _row_of_unrecorded(self) -> QueuedFile:
        local = self.storage.local
        if is_directory(local, self.name):
            raise Http404(NOT_FOUND)
        row = QueuedFile(alias=self.storage.alias, name=self.name, remote_name=self.name)
        if local.exists(self.name):
            row.size = local.size(self.name)
            row.saved_at = local.get_modified_time(self.name)
        else:
            row.state = State.TRANSFERRED
            row.is_local = False
        return row

    # From this host

    def _from_here(self, row: QueuedFile) -> HttpResponseBase | None:
        opened = self._opened(row)
        if opened is None:
            return None
        way = settings.sendfile
        if way and has_paths(self.storage.local) and is_as_on_disk(opened):
            opened.close()
            return handed_over(self._facts(row), way["HEADER"], self._place(row, way.get("ROOT")))
        return respond(self.request, self._facts(row), OpenFile(opened))

    def _opened(self, row: QueuedFile) -> File | None:
        """The local copy, if it is this file's, whole, and still there."""
        if not (row.is_local and is_reachable_from_here(row.host or settings.host)):
            return None
        try:
            opened: File = self.storage.local.open(row.name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if opened.size == row.size and (not row.pk or self._is_still_here(row)):
            return opened
        opened.close()
        return None

    def _is_still_here(self, row: QueuedFile) -> bool:
        rows = ledger().filter(pk=row.pk, generation=row.generation, is_local=True)
        return rows.exclude(state=State.DELETING).exists()

    def _place(self, row: QueuedFile, root: str | None) -> str:
        local = self.storage.local
        path = local.path(row.name)
        if root is None:
            return quote(path)
        return quote(root.replace("{alias}", row.alias) + os.path.relpath(path, local.location))

    def _from_another_host(self, row: QueuedFile) -> HttpResponseBase:
        try:
            opened = self.storage.open(row.name)
        except FileElsewhere:
            return HttpResponse(status=503, headers={"Retry-After": str(RETRY_AFTER)})
        except FileNotFoundError as error:
            raise Http404(NOT_FOUND) from error
        return respond(self.request, self._facts(row), OpenFile(opened))

    # From the remote

    def _from_remote(self, row: QueuedFile) -> HttpResponseBase:
        if row.pk and self.storage.url_mode == "proxied":
            return self._proxied(row)
        try:
            url = url_within(self.storage.remote, row.remote_name, self.seconds)
            if not url:
                raise ValueError("There is no address.")
        except (NotImplementedError, ValueError) as error:  # so say storages without addresses
            if not row.pk:
                raise Http404(NOT_FOUND) from error
            return self._proxied(row)
        response = HttpResponseRedirect(url)
        response["Cache-Control"] = self._of_redirect()
        return response

    def _of_redirect(self) -> str:
        """A redirect may be kept as long as what it leads to is good for that long again."""
        if settings.permission:
            return "private, no-store"
        ends = [end for end in (lifetime_of(self.storage.remote), self.seconds) if end is not None]
        age = int(min(REDIRECT_MAX_AGE, *(end / 2 for end in ends))) if ends else REDIRECT_MAX_AGE
        return f"{'private' if ends or self.is_signed else 'public'}, max-age={age}"

    def _proxied(self, row: QueuedFile) -> HttpResponseBase:
        """Through this process: the local copy where there still is one, else a piece at a time."""
        if answer := self._from_here(row):
            return answer
        try:
            return respond(self.request, self._facts(row), FromElsewhere(self._reader(row)))
        except FileNotFoundError as error:
            raise Http404(NOT_FOUND) from error
        except Exception as error:
            sides = [self.storage.local, self.storage.remote]
            logger.warning("%s cannot be read from the remote: %s", row, reason(error, *sides))
            return HttpResponse(status=502)

    def _reader(self, row: QueuedFile) -> Callable[[int, int], Iterator[bytes]]:
        uploader = self.storage.uploader

        def read(start: int, end: int) -> Iterator[bytes]:
            copy = None
            if row.size <= CACHED_AS_A_WHOLE:
                copy = readcache.opened(row, lambda: uploader.read_back(row.remote_name))
            if copy is None:
                yield from uploader.read_part(row.remote_name, start, end)
            else:
                with copy:
                    yield from OpenFile(copy).pieces(start, end)

        return read

    def _facts(self, row: QueuedFile) -> Facts:
        is_private = self.is_signed or settings.permission
        return Facts(
            name=row.name,
            size=row.size,
            etag=_etag(row),
            changed_at=row.saved_at,
            content_type=row.content_type or _guess(row.name),
            # To be asked about each time: it may be deleted or overwritten.
            cache_control="private, no-cache" if is_private else "no-cache",
        )


def _etag(row: QueuedFile) -> str:
    """Of one content: a transfer may change the bytes, an overwriting the generation."""
    if not row.pk:
        return f'"{int(row.saved_at.timestamp() * 1000):x}-{row.size:x}"'
    checksum = row.checksum.partition(":")[2]
    return f'"{row.pk:x}-{row.generation:x}-{row.size:x}-{checksum}"'


def _guess(name: str) -> str:
    return mimetypes.guess_type(name)[0] or ""


def _permission() -> Callable[[HttpRequest, QueuedFile], bool] | None:
    given = settings.permission
    found = import_string(given) if isinstance(given, str) else given
    return cast("Callable[[HttpRequest, QueuedFile], bool] | None", found)


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
