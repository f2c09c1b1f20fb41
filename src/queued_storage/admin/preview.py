"""Previews of pictures."""

from typing import IO, Protocol, cast

from django.http import FileResponse, HttpResponse, HttpResponseRedirect

from ..ledger.aliases import storage_for
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here

# A browser shows these without running anything in them. An SVG may contain scripts.
CONTENT_TYPES = frozenset(
    {"image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"}
)
MAX_SIZE = 20 * 1024 * 1024  # bytes


class _Local(Protocol):
    def open(self, name: str) -> IO[bytes]: ...


class _Storage(Protocol):
    @property
    def local(self) -> _Local: ...

    def url(self, name: str) -> str: ...


def is_safe(content_type: str, size: int) -> bool:
    """Whether the admin shows such a file."""
    return content_type in CONTENT_TYPES and size <= MAX_SIZE


def has_preview(row: QueuedFile) -> bool:
    return is_safe(row.content_type, row.size) and row.state != State.DELETING


def response(row: QueuedFile) -> HttpResponse | FileResponse | None:
    """Return the local copy if it is on this host, otherwise a redirect to the remote copy.

    Return None if this process can reach neither.
    """
    if not has_preview(row):
        return None
    try:
        storage = cast("_Storage", storage_for(row.alias, row.task))
        if row.is_local and is_reachable_from_here(row.host):
            return picture(storage.local.open(row.name), row.content_type)
        if row.is_remote:
            return HttpResponseRedirect(storage.url(row.name))
    except Exception:  # no such file, no URL, no such storage in this process
        return None
    return None


def picture(file: IO[bytes], content_type: str) -> FileResponse:
    """Return a picture that a browser does not take for anything else."""
    return FileResponse(
        file,
        content_type=content_type,
        headers={
            "Cache-Control": "private, no-cache",
            # The stored content type may be wrong. No browser may take the file for a page.
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        },
    )
