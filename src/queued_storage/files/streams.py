"""Files that measure what passes through them."""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple, cast

from django.core.files import File
from django.core.files.storage import Storage

from ..ledger.states import Content

PIECE = 1024 * 1024  # bytes


@cache
def _crc32() -> Callable[[bytes, int], int]:
    try:  # the extra "checksums", loaded only by processes that read files
        from isal.isal_zlib import crc32
    except ImportError:
        from zlib import crc32
    return crc32


class Checksum:
    """A CRC-32, as S3 and zip compute it."""

    def __init__(self, known: Content | None = None) -> None:
        self.size = known.size if known else 0
        self.value = int(known.checksum.removeprefix("crc32:"), 16) if known else 0
        self._crc32 = _crc32()

    def add(self, data: bytes) -> None:
        self.value = self._crc32(data, self.value)
        self.size += len(data)

    def __str__(self) -> str:
        return f"crc32:{self.value:08x}"


def checksum_of(pieces: Iterable[bytes]) -> Checksum:
    """Return the checksum, and the size, of these bytes."""
    checksum = Checksum()
    for piece in pieces:
        checksum.add(piece)
    return checksum


def content_of(storage: Storage, name: str) -> Content:
    """Read a stored file; return its size and checksum."""
    with storage.open(name) as file:
        found = checksum_of(file.chunks())
    return Content(found.size, str(found))


class PiecewiseFile(File):
    """A file that can be read once, from an iterator of its bytes."""

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        super().__init__(None, name)
        self._pieces = pieces
        self._rest = b""

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        if self._rest:
            yield self._rest
            self._rest = b""
        yield from self._pieces

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                size = len(self._rest)
                break
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def seek(file: Any, offset: int, whence: int = io.SEEK_SET) -> int:
    """Move to a position of a file; return it even if the file's own ``seek()`` does not."""
    position = file.seek(offset, whence)
    return position if type(position) is int else int(file.tell())


class Saved(NamedTuple):
    """A file of this machine that holds the bytes to be sent."""

    path: str
    content: Content  # as it was saved
    on_sent: Callable[[int], object]  # called with the number of bytes sent so far


class Stored(NamedTuple):
    """An object that holds the bytes to be sent, so that the server may copy it."""

    remote: Storage
    name: str
    content: Content


class MeasuredFile(File):
    """A file that knows the size and checksum of the bytes that were read from it.

    Bytes that are read twice count once, so a reader may rewind. Text is read as UTF-8.
    ``on_bytes`` is called with the length of each piece, and may stop the reading by raising.
    """

    def __init__(
        self, file: Any, name: str | None, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(file, name)
        self._source = file
        self.file = cast(Any, _Within(self, file))
        self._on_bytes = on_bytes
        self._checksum = Checksum()
        self._position = 0
        self.content_type = getattr(file, "content_type", None) or ""
        # The file, or the object, with the same bytes, if there is one
        self.saved: Saved | None = None
        self.stored: Stored | None = None

    @property
    def content(self) -> Content:
        """Size and checksum of what was read so far."""
        return Content(self._checksum.size, str(self._checksum), self.content_type)

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        if not hasattr(self._source, "chunks"):
            yield from super().chunks(chunk_size)
            return
        self._position = 0  # File.chunks() starts there
        # Some sources have a default of their own, or take no argument.
        size = () if chunk_size is None else (chunk_size,)
        for piece in self._source.chunks(*size):
            yield self._see(piece)

    def read(self, *args: Any) -> bytes:
        return self._see(self._source.read(*args))

    def readline(self, *args: Any) -> bytes:
        return self._see(self._source.readline(*args))

    def readlines(self, *args: Any) -> list[bytes]:
        return [self._see(line) for line in self._source.readlines(*args)]

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def __iter__(self) -> Iterator[bytes]:
        return map(self._see, self._source)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = seek(self._source, offset, whence)
        return self._position

    def was_sent(self, saved: "Saved", *, is_proved: bool) -> None:
        """Count the bytes of the saved file as read, after an uploader sent them from its path.

        Those that were saved count if the upload proved them, else the path is read again.
        """
        self._position, self._checksum = 0, Checksum()
        if is_proved:
            self._checksum = Checksum(saved.content)
            return
        with open(saved.path, "rb") as file:
            while piece := file.read(PIECE):
                self._see(piece)

    def is_copied(self, stored: "Stored") -> None:
        """Count the bytes of the object as read, before a server is asked to copy them."""
        self._position, self._checksum = 0, Checksum(stored.content)
        if self._on_bytes:
            self._on_bytes(stored.content.size)

    def close(self) -> None:
        """Leave the file open for its owner, though some storages close what they are given."""

    def _see(self, piece: bytes | str) -> bytes:
        data = piece.encode() if isinstance(piece, str) else bytes(piece)
        known = self._checksum.size - self._position
        if 0 <= known < len(data):
            self._checksum.add(data[known:])
        self._position += len(data)
        if self._on_bytes:
            self._on_bytes(len(data))
        return data


class _Within:
    """The ``file`` of a measured file, which some storages read instead of the file itself."""

    def __init__(self, measured: MeasuredFile, source: Any) -> None:
        self._source = source
        self.read = measured.read
        self.readline = measured.readline
        self.readlines = measured.readlines
        self.readinto = measured.readinto
        self.seek = measured.seek
        self.close = measured.close
        self._lines = measured.__iter__

    def __iter__(self) -> Iterator[bytes]:
        return self._lines()

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._source, attribute)
