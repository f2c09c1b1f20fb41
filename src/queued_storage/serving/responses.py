"""Responds to a request with a file, or with the range that it asks for."""

import posixpath
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, Protocol, cast

from asgiref.sync import sync_to_async
from django.core.files import File
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date

PIECE = 256 * 1024  # bytes
# Types that a browser may display. Any other could be a page with scripts, and is downloaded.
SHOWN = frozenset(
    {"application/pdf", "text/plain"}
    | {f"image/{kind}" for kind in ("avif", "bmp", "gif", "jpeg", "png", "webp")}
    | {f"audio/{kind}" for kind in ("aac", "flac", "mp4", "mpeg", "ogg", "wav", "webm", "x-wav")}
    | {f"video/{kind}" for kind in ("mp4", "mpeg", "ogg", "quicktime", "webm")}
)
OTHER = "application/octet-stream"
# Chromium's viewer of PDFs does not open in a sandbox.
_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


@dataclass(frozen=True)
class Representation:
    """What a response says about a file besides its bytes."""

    name: str
    size: int
    etag: str  # in quotation marks
    changed_at: datetime
    content_type: str
    cache_control: str

    @property
    def shown_type(self) -> str:
        """The content type if it is harmless, else ``OTHER``."""
        kind = self.content_type.partition(";")[0].strip().lower()
        return kind if kind in SHOWN else OTHER


class Source(Protocol):
    """Where the bytes come from; closed when they are sent, or not needed."""

    def pieces(self, start: int, end: int) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class FileSource:
    """The bytes of an open file that can seek."""

    def __init__(self, file: File | IO[bytes]) -> None:
        self._file: Any = file

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        self._file.seek(start)
        while start < end and (piece := self._file.read(min(PIECE, end - start))):
            start += len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()


class RemoteSource:
    """The bytes of a file on the remote, which are requested when they are needed."""

    def __init__(self, read: Callable[[int, int], Iterator[bytes]]) -> None:
        self._read = read

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        return self._read(start, end)

    def close(self) -> None:
        """Nothing is open."""


class _Body:
    """The pieces of a response, as many bytes as its headers announce."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source = source
        self._left = end - start
        self._pieces = source.pieces(start, end) if self._left else iter(())
        self._first = next(self._pieces, b"")  # an error must occur before the response begins

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece, self._first = self._first, b""
        piece = piece or next(self._pieces, b"")
        self._left -= len(piece)
        if self._left < 0 or (self._left and not piece):
            # Ends the response early.
            raise OSError("The length of the file differs from its size in the ledger.")
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close:
            close()
        self._source.close()


class _FileResponse(StreamingHttpResponse):
    """A response that reads a piece at a time under ASGI too, where Django would read the whole
    file."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self)
        next_piece = sync_to_async(lambda: next(pieces, b""))
        while piece := await next_piece():
            yield piece


def respond(
    request: HttpRequest, representation: Representation, source: Source
) -> HttpResponseBase:
    """Return the file, a range of it, or 304 if the client's copy is current."""
    shell = HttpResponse(headers=_headers(representation))
    decided = get_conditional_response(
        request, representation.etag, int(representation.changed_at.timestamp()), shell
    )
    if decided is not shell:
        source.close()
        return cast(HttpResponseBase, decided)
    wanted = _range(request, representation)
    if wanted is not None and wanted[0] >= wanted[1]:
        source.close()
        del shell["Content-Length"], shell["Content-Disposition"], shell["Content-Type"]
        shell.status_code = 416
        shell["Content-Range"] = f"bytes */{representation.size}"
        return shell
    start, end = wanted or (0, representation.size)
    shell["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        source.close()
        return shell
    try:
        body = _Body(source, start, end)
    except BaseException:
        source.close()
        raise
    response = _FileResponse(body, headers=dict(shell.items()))
    if wanted:
        response.status_code = 206
        response["Content-Range"] = f"bytes {start}-{end - 1}/{representation.size}"
    return response


def hand_over(representation: Representation, header: str, path: str) -> HttpResponse:
    """Return a response whose body the web server sends; it handles ranges and conditions."""
    response = HttpResponse(headers=_headers(representation))
    for one in ("Content-Length", "ETag", "Last-Modified", "Accept-Ranges"):
        del response[one]
    response[header] = path
    return response


def _headers(representation: Representation) -> dict[str, str]:
    kind = representation.shown_type
    # Django does not escape a line break at the end.
    file_name = posixpath.basename(representation.name).rstrip("\n")
    disposition = content_disposition_header(kind == OTHER, file_name)
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": representation.cache_control,
        "Content-Disposition": str(disposition),
        "Content-Length": str(representation.size),
        "Content-Type": kind,
        "ETag": representation.etag,
        "Last-Modified": http_date(representation.changed_at.timestamp()),
        "X-Content-Type-Options": "nosniff",
    }
    if kind != "application/pdf":
        headers["Content-Security-Policy"] = _POLICY
    return headers


def _range(request: HttpRequest, representation: Representation) -> tuple[int, int] | None:
    """Return start and end of the requested range, or None to send the whole file.

    The start is not below the end if the file has no such range. Several ranges in one request
    are not supported: the whole file is sent.
    """
    found = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if request.method != "GET" or not found or found.groups() == ("", ""):
        return None
    # A date is not a safe condition: a file may change twice within a second.
    if request.headers.get("If-Range", representation.etag).strip() != representation.etag:
        return None
    first, last = found.groups()
    if not first:
        return max(0, representation.size - int(last)) if int(
            last
        ) else representation.size, representation.size
    if last and int(last) < int(first):
        return None  # not a range
    return int(first), min(int(last) + 1, representation.size) if last else representation.size
