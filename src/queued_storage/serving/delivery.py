"""Delivers one file from wherever it is to the client that requested it."""

import mimetypes
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast
from urllib.parse import quote

from django.core.exceptions import PermissionDenied
from django.core.files import File
from django.core.files.storage import Storage
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..exceptions import FileElsewhere, NotPublished
from ..files import presence, readcache, successors, volumes
from ..files.localfiles import has_paths, is_as_on_disk, is_directory
from ..ledger import bindings
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here, is_unpublished
from ..remotes.expiry import lifetime_of, url_within
from ..remotes.places import Place
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..uploaders import Uploader, substitution
from .links import Version
from .responses import FileSource, RemoteSource, Representation, hand_over, respond

LOOKS = 3  # queries of the ledger, if the file moves during the request
RETRY_AFTER = 5  # seconds, for a file that nobody can read here so far
REDIRECT_MAX_AGE = 60  # seconds; less where the remote's URL expires sooner
CACHED_AS_A_WHOLE = 8 * 1024 * 1024  # bytes; a client need not wait for all of a larger file
NOT_FOUND = _("The file does not exist.")


class Located(Protocol):
    """What is known of a copy on a remote."""

    @property
    def place(self) -> int | None: ...
    @property
    def remote_name(self) -> str: ...


class ServedStorage(Protocol):
    """A storage whose files this project serves."""

    @property
    def alias(self) -> str: ...
    @property
    def local(self) -> Storage: ...
    @property
    def remote(self) -> Storage: ...
    @property
    def uploader(self) -> Uploader: ...
    @property
    def remote_place(self) -> Place: ...
    @property
    def url_mode(self) -> str: ...
    @property
    def has_stable_urls(self) -> bool: ...

    def open(self, name: str) -> File: ...
    def copies_to_read(
        self, name: str, found: QueuedFile
    ) -> "Iterator[tuple[ServedStorage, Located]]":
        """Yield the storage with each remote that has a file, the best first."""

    def note_read(self, pk: int, error: Exception | None = None) -> None:
        """Note that a file was read from the remote, or why that failed."""


class Delivery:
    """The response to one request for one file."""

    def __init__(
        self,
        request: HttpRequest,
        storage: ServedStorage,
        name: str,
        *,
        is_signed: bool,
        version: Version | None,
        seconds: float | None,
    ) -> None:
        self.request = request
        self.storage = storage
        self.name = name
        self.is_signed = is_signed
        self.version = version  # that the signature is for; None if the ledger has no such file
        self.seconds = seconds  # until the signed URL expires; None if it does not

    def response(self) -> HttpResponseBase:
        """Return the response for the row that the permission was asked about."""
        permission = _permission()
        for _look in range(LOOKS):
            row = self._row()
            if permission and not permission(self.request, row):
                raise PermissionDenied
            if row.state == State.DELETING:
                break
            if is_unpublished(row.state, row.is_local):
                return _placeholder()
            # Otherwise the file was transferred and evicted meanwhile, or is another one.
            if response := self._response_for(row, may_have_changed=permission is not None):
                return response
        raise Http404(NOT_FOUND)

    def _response_for(self, row: QueuedFile, *, may_have_changed: bool) -> HttpResponseBase | None:
        if row.is_remote:
            # A redirect sends no byte, so without a permission the row has just been read.
            if may_have_changed and not self._is_current(row):
                return None
            return self._from_remote(row)
        if response := self._from_here(row):
            return response
        if not (row.pk and row.is_local):
            return None
        if not is_reachable_from_here(row.host):
            return self._from_another_host(row)
        return unavailable() if volumes.is_missing(row.alias, self.storage.local) else None

    def _row(self) -> QueuedFile:
        """Return the file's row, or an unsaved one for a file that predates the ledger.

        Only a signature shows that the project has such a file.
        """
        row = ledger().lookup(self.storage.alias, self.name)
        if row is not None and is_unpublished(row.state, row.is_local):
            return row  # of which nobody gets more than a placeholder
        if self.is_signed:
            found = None if row is None else Version(row.pk, row.generation)
            if found != self.version:
                raise Http404(NOT_FOUND)
        elif row is None:
            raise Http404(NOT_FOUND)
        return row or self._row_of_unrecorded()

    def _is_current(self, row: QueuedFile) -> bool:
        """Return whether the name still belongs to this content of this row."""
        rows = ledger().named(self.storage.alias, self.name)
        if not row.pk:
            return not rows.exists()
        same = rows.filter(pk=row.pk, generation=row.generation)
        return same.exclude(state=State.DELETING).exists()

    def _row_of_unrecorded(self) -> QueuedFile:
        local = self.storage.local
        if is_directory(local, self.name):
            raise Http404(NOT_FOUND)
        row = QueuedFile(
            alias=self.storage.alias,
            name=self.name,
            remote_name=self.name,
            place=bindings.UNKNOWN,
        )
        if presence.exists(local, self.name):
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
        sendfile = settings.sendfile
        if sendfile and has_paths(self.storage.local) and is_as_on_disk(opened):
            opened.close()
            path = self._path_for_web_server(row, sendfile.get("ROOT"))
            return hand_over(self._representation(row), sendfile["HEADER"], path)
        return respond(self.request, self._representation(row), FileSource(opened))

    def _opened(self, row: QueuedFile) -> File | None:
        """Open the local copy, if it is this file's, whole, and still there."""
        if not (row.is_local and is_reachable_from_here(row.host or settings.host)):
            return None
        try:
            opened: File = self.storage.local.open(self._local_name(row))
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_its_own = False
        try:
            is_its_own = opened.size == row.size and self._is_still_here(row)
        finally:
            if not is_its_own:
                opened.close()
        return opened if is_its_own else None

    def _local_name(self, row: QueuedFile) -> str:
        return successors.current_name(self.storage.local, row.name, row)

    def _is_still_here(self, row: QueuedFile) -> bool:
        return ledger().is_still_local(row) if row.pk else self._is_current(row)

    def _path_for_web_server(self, row: QueuedFile, root: str | None) -> str:
        local: Any = self.storage.local
        path = local.path(self._local_name(row))
        if root is None:
            return quote(path)
        return quote(root.replace("{alias}", row.alias) + os.path.relpath(path, local.location))

    def _from_another_host(self, row: QueuedFile) -> HttpResponseBase | None:
        try:
            opened = self.storage.open(row.name)
        except FileElsewhere:
            return unavailable()
        except NotPublished:  # it was rejected at this moment
            return None
        except FileNotFoundError as error:
            raise Http404(NOT_FOUND) from error
        if not self._is_current(row):  # the storage opened what the name stood for
            opened.close()
            return None
        return respond(self.request, self._representation(row), FileSource(opened))

    # From the remote

    def _from_remote(self, row: QueuedFile) -> HttpResponseBase | None:
        if row.pk and self.storage.url_mode == "proxied":
            return self._proxied(row)
        storage, copy = next(self.storage.copies_to_read(row.name, row))
        place = storage.remote_place
        if bindings.is_elsewhere(row.alias, copy, place):
            bindings.warn_once(row.alias, row.name, copy, place)
        url = self._remote_url(copy.remote_name, storage.remote)
        if url:
            response = HttpResponseRedirect(url)
            response["Cache-Control"] = self._cache_control_of_redirect(storage.remote)
            return response
        if not row.pk:
            raise Http404(NOT_FOUND)
        return self._proxied(row)

    def _remote_url(self, remote_name: str, remote: Storage) -> str | None:
        try:
            return url_within(remote, remote_name, self.seconds)
        except (NotImplementedError, ValueError):  # as storages without URLs raise
            return None

    def _cache_control_of_redirect(self, remote: Storage) -> str:
        """Let clients keep a redirect for half the time that its target is valid at least."""
        if settings.permission:
            return "private, no-store"
        ends = [end for end in (lifetime_of(remote), self.seconds) if end is not None]
        age = int(min(REDIRECT_MAX_AGE, *(end / 2 for end in ends))) if ends else REDIRECT_MAX_AGE
        return f"{'private' if ends or self.is_signed else 'public'}, max-age={age}"

    def _proxied(self, row: QueuedFile) -> HttpResponseBase | None:
        """Send the file through this process: the local copy if there is one, else a piece at a
        time."""
        if response := self._from_here(row):
            return response
        try:
            response = self._response_from_remotes(row)
        except FileNotFoundError as error:
            raise Http404(NOT_FOUND) from error
        except Exception:  # which was logged
            return HttpResponse(status=502)
        if not self._is_current(row):  # its object may have been another file's already
            response.close()
            return None
        return response

    def _response_from_remotes(self, row: QueuedFile) -> HttpResponseBase:
        """Respond with the first copy that can be read."""
        problems: list[Exception] = []
        for storage, copy in self.storage.copies_to_read(row.name, row):
            source = RemoteSource(self._remote_reader(row, storage.uploader, copy.remote_name))
            try:
                bindings.require_same(row.alias, row.name, copy, storage.remote_place)
                response = respond(self.request, self._representation(row), source)
                storage.note_read(row.pk)
                return response
            except Exception as error:
                problems.append(error)
                storage.note_read(row.pk, error)
                if not isinstance(error, FileNotFoundError):
                    text = reason(error, storage.local, storage.remote)
                    logger.warning("%s cannot be read from the remote: %s", row, text)
                if not substitution.may_help(storage.uploader, error):
                    break
        raise problems[0]

    def _remote_reader(
        self, row: QueuedFile, uploader: Uploader, remote_name: str
    ) -> Callable[[int, int], Iterator[bytes]]:
        def read(start: int, end: int) -> Iterator[bytes]:
            copy = None
            if row.size <= CACHED_AS_A_WHOLE:
                copy = readcache.opened(row, lambda: uploader.read_back(remote_name))
            if copy is None:
                yield from uploader.read_part(remote_name, start, end)
            else:
                with copy:
                    yield from FileSource(copy).pieces(start, end)

        return read

    def _representation(self, row: QueuedFile) -> Representation:
        is_private = self.is_signed or settings.permission
        return Representation(
            name=row.name,
            size=row.size,
            etag=_etag(row),
            changed_at=row.saved_at,
            content_type=row.content_type or mimetypes.guess_type(row.name)[0] or "",
            # Clients ask each time: the file may be deleted or overwritten.
            cache_control="private, no-cache" if is_private else "no-cache",
        )


def _placeholder() -> HttpResponseBase:
    """Return what clients get for a file that is not published. No cache may keep it."""
    if settings.unpublished_url is None:
        raise Http404(NOT_FOUND)
    response = HttpResponseRedirect(settings.unpublished_url)
    response["Cache-Control"] = "no-store"
    return response


def unavailable() -> HttpResponse:
    """Return the response for a file that exists, but cannot be read yet. No cache may keep it."""
    return HttpResponse(status=503, headers={"Retry-After": str(RETRY_AFTER)})


def _etag(row: QueuedFile) -> str:
    """Identify one content: a transfer may change the checksum, an overwrite the generation."""
    if not row.pk:
        return f'"{int(row.saved_at.timestamp() * 1000):x}-{row.size:x}"'
    checksum = row.checksum.partition(":")[2]
    return f'"{row.pk:x}-{row.generation:x}-{row.size:x}-{checksum}"'


def _permission() -> Callable[[HttpRequest, QueuedFile], bool] | None:
    given = settings.permission
    found = import_string(given) if isinstance(given, str) else given
    return cast("Callable[[HttpRequest, QueuedFile], bool] | None", found)
