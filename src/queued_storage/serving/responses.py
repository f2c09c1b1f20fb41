"""Answers a request with as many of a file's bytes as it asks for."""

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
# What a browser may show in its window; all else could be a page with scripts, and is saved.
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
class Facts:
    """What an answer says of a file besides its bytes."""

    name: str
    size: int
    etag: str  # in quotation marks
    changed_at: datetime
    content_type: str
    cache_control: str

    @property
    def shown_type(self) -> str:
        """The type if it is harmless, else ``OTHER``."""
        kind = self.content_type.partition(";")[0].strip().lower()
        return kind if kind in SHOWN else OTHER


class Source(Protocol):
    """Where the bytes come from; it is closed when they are sent, or not wanted."""

    def pieces(self, start: int, end: int) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class OpenFile:
    """The bytes of a file that can seek."""

    def __init__(self, file: File | IO[bytes]) -> None:
        self._file: Any = file

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        self._file.seek(start)
        while start < end and (piece := self._file.read(min(PIECE, end - start))):
            start += len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()


class FromElsewhere:
    """Bytes that are asked for when they are needed."""

    def __init__(self, ask: Callable[[int, int], Iterator[bytes]]) -> None:
        self._ask = ask

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        return self._ask(start, end)

    def close(self) -> None:
        """Nothing is open."""


class _Body:
    """The pieces of an answer, as many bytes as it has announced."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source = source
        self._left = end - start
        self._pieces = source.pieces(start, end) if self._left else iter(())
        self._first = next(self._pieces, b"")  # what fails must do so before the answer begins

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece, self._first = self._first, b""
        piece = piece or next(self._pieces, b"")
        self._left -= len(piece)
        if self._left < 0 or (self._left and not piece):
            raise OSError("The file has another length than the ledger says.")  # cuts the answer
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close:
            close()
        self._source.close()


class _FileResponse(StreamingHttpResponse):
    """Reads a piece at a time under ASGI, too, where Django would read the file as a whole."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self)
        next_piece = sync_to_async(lambda: next(pieces, b""))
        while piece := await next_piece():
            yield piece


def respond(request: HttpRequest, facts: Facts, source: Source) -> HttpResponseBase:
    """The file, a range of it, or word that nothing changed since the client's copy."""
    shell = HttpResponse(headers=_headers(facts))
    decided = get_conditional_response(
        request, facts.etag, int(facts.changed_at.timestamp()), shell
    )
    if decided is not shell:
        source.close()
        return cast(HttpResponseBase, decided)
    wanted = _range(request, facts)
    if wanted is not None and wanted[0] >= wanted[1]:
        source.close()
        del shell["Content-Length"], shell["Content-Disposition"], shell["Content-Type"]
        shell.status_code = 416
        shell["Content-Range"] = f"bytes */{facts.size}"
        return shell
    start, end = wanted or (0, facts.size)
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
        response["Content-Range"] = f"bytes {start}-{end - 1}/{facts.size}"
    return response


def handed_over(facts: Facts, header: str, place: str) -> HttpResponse:
    """An answer for the web server to fill in; it knows ranges and conditions itself."""
    response = HttpResponse(headers=_headers(facts))
    for one in ("Content-Length", "ETag", "Last-Modified", "Accept-Ranges"):
        del response[one]
    response[header] = place
    return response


def _headers(facts: Facts) -> dict[str, str]:
    kind = facts.shown_type
    file_name = posixpath.basename(facts.name).rstrip("\n")  # as which Django would write it
    disposition = content_disposition_header(kind == OTHER, file_name)
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": facts.cache_control,
        "Content-Disposition": str(disposition),
        "Content-Length": str(facts.size),
        "Content-Type": kind,
        "ETag": facts.etag,
        "Last-Modified": http_date(facts.changed_at.timestamp()),
        "X-Content-Type-Options": "nosniff",
    }
    if kind != "application/pdf":
        headers["Content-Security-Policy"] = _POLICY
    return headers


def _range(request: HttpRequest, facts: Facts) -> tuple[int, int] | None:
    """Start and end of what is asked for, the end not before the start only if there is such a
    range; None if the whole file is to be sent, as for several ranges at once."""
    found = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if request.method != "GET" or not found or found.groups() == ("", ""):
        return None
    # A date is no safe condition: a file may change twice within a second.
    if request.headers.get("If-Range", facts.etag).strip() != facts.etag:
        return None
    first, last = found.groups()
    if not first:
        return max(0, facts.size - int(last)) if int(last) else facts.size, facts.size
    if last and int(last) < int(first):
        return None  # no range at all
    return int(first), min(int(last) + 1, facts.size) if last else facts.size
