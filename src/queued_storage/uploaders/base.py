"""The base class of uploaders."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import ClassVar

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import Storage

from ..exceptions import VerificationError
from ..files import presence
from ..files.streams import MeasuredFile, checksum_of
from ..files.walking import names_on
from ..ledger.names import PROBE_NAME, WRITER_NAME
from ..ledger.states import Content
from ..remotes.faults import Diagnosis, diagnosis_of
from ..remotes.guarding import guarded
from ..remotes.layers import attribute_of
from ..remotes.opening import opened

PIECE = 1024 * 1024  # bytes
MARKER_MAX = 1000  # bytes that are read of a marker
PROBE = b"Written by django-queued-storage to find out whether this storage takes files.\n"


class CannotCopy(Exception):
    """The server cannot copy an object by itself, so its bytes have to be sent."""


class Uploader(ABC):
    """Uploads one file to ``remote`` under a given name, and says what it proved.

    It stores files where and how the remote's own ``save()`` would store them, and keeps no more
    than a few pieces of a file in memory.
    """

    # Whether upload() replaces old content in one step. If not, the old file is deleted first.
    replaces: ClassVar[bool] = False

    def __init__(self, remote: Storage) -> None:
        self.remote = remote
        # Called for each piece that is read back, so that a long comparison is not a stall.
        self.progress: Callable[[], object] = lambda: None
        # Whether the response to the last upload proved as much as verify() with "checksum".
        self.has_proof = False
        # Whether the last upload_new() sent its request only once. Otherwise the remote may have
        # stored the file and then refused to overwrite it.
        self.was_sent_once = False

    # May be overridden

    @classmethod
    def suits(cls, remote: Storage) -> bool:
        """Return whether this uploader honours all settings of the remote."""
        return True

    def upload_new(self, name: str, content: MeasuredFile) -> str:
        """Upload ``content`` under a name that was free a moment ago.

        If the remote reports that the name has been taken since, raise ``FileExistsError`` and
        change nothing.
        """
        return self.upload(name, content)

    def never_overwrites(self, size: int) -> bool:
        """Return whether ``upload_new()`` is known to keep an existing file, and to store a file of
        this size completely or not at all. If so, ``exists()`` is not called first."""
        return False

    def can_copy_from(self, remote: Storage, size: int) -> bool:
        """Return whether ``upload_new()`` may let the server copy an object of this size from
        another storage. If that fails, it raises ``CannotCopy``."""
        return False

    def expect_many(self) -> None:
        """Prepare for many uploads, if it pays to find out what the remote can do."""

    def read_small(self, name: str, size: int) -> bytes:
        """Return the file's bytes, of which there should be no more than ``size``.

        Of a larger file only the beginning is returned, which is more than ``size``.
        """
        data = b""
        for piece in self.read_back(name):
            data += bytes(piece)
            if len(data) > size:
                break
        return data

    def forget_unfinished(self, name: str) -> None:
        """Delete what the remote keeps of interrupted uploads to ``name``, apart from a file."""

    def refuses_wrong_checksum(self, name: str) -> bool | None:
        """Return whether the remote refuses bytes with a wrong checksum, or None if ``upload()``
        sends none. If the remote accepts them, they are stored under ``name``."""
        return None

    def exists(self, name: str) -> bool:
        """Return whether the remote has the file. An error is raised if that cannot be found out,
        for example because the remote refuses to answer, or does not exist."""
        with guarded(self.remote, name):
            return presence.exists(self.remote, name)

    def is_free(self, name: str) -> bool:
        """Return whether no object seems to have the name, before the upload that finds out."""
        return not self.exists(name)

    def remove(self, name: str) -> None:
        """Delete the file, if it exists. Some storages raise an error if it does not."""
        try:
            self.remote.delete(name)
        except Exception:
            if self.exists(name):
                raise

    def remove_together(self, names: Collection[str]) -> dict[str, Exception | None]:
        """Delete files by one request, as far as the remote can do that.

        Returns, for each file of which the remote has answered, why it was not deleted.
        """
        return {}

    def verify(self, name: str, sent: Content, level: str) -> str:
        """Compare the file on the remote with what was sent, at ``level`` or above.

        Returns the level that was reached: ``"size"`` instead of ``"checksum"``, if the remote has
        no checksum. Raises ``VerificationError`` if the two differ.
        """
        if level == "content":
            return self.verify_content(name, sent)
        return self.verify_size(name, sent)

    def verify_size(self, name: str, sent: Content) -> str:
        self._require(name, "bytes", self.remote.size(name), sent.size)
        return "size"

    def verify_content(self, name: str, sent: Content) -> str:
        return self._require_content(name, self._pieces(name), sent)

    def _pieces(self, name: str) -> Iterator[bytes]:
        for piece in self.read_back(name):
            self.progress()
            yield piece

    def read_back(self, name: str) -> Iterator[bytes]:
        """Yield the file's bytes, as a reader of the remote gets them."""
        with opened(self.remote, name, "rb") as file:
            yield from file.chunks(PIECE)

    def read_part(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the file's bytes from ``start`` up to, but not including, ``end``."""
        with opened(self.remote, name, "rb") as file:
            if file.seekable():
                file.seek(start)
            else:
                _skip(file, start)
            while start < end and (piece := file.read(min(PIECE, end - start))):
                start += len(piece)
                yield piece

    def names(self, under: str = "") -> Iterator[str]:
        """Yield the names of all files on the remote, or of those in a directory."""
        return names_on(self.remote, under)

    def diagnose(self, error: BaseException, size: int | None = None) -> Diagnosis:
        """Return whose fault an error of this uploader is.

        ``size`` is the number of bytes of the file that was transferred, if that is known.
        """
        return diagnosis_of(error, self.remote, size)

    def write_probe(self) -> None:
        """Write a few bytes at the remote's root, and remove them.

        Raises what the remote raises if it cannot be written to, and ``NotImplementedError`` if
        this says nothing of the remote. That they cannot be removed is no error.
        """
        if attribute_of(self.remote, "sides"):
            raise NotImplementedError("A queued storage saves files while its remote is away.")
        name = PROBE_NAME
        try:
            with guarded(self.remote, name):
                name = self.remote.save(name, ContentFile(PROBE))
        finally:  # an interrupted save may leave an unfinished file
            with suppress(Exception):  # a key may be allowed to write, but not to delete
                self.remote.delete(name)

    def read_marker(self) -> bytes | None:
        """Return the beginning of the marker at the remote's root; None if there is none."""
        if not self.exists(WRITER_NAME):
            return None
        return b"".join(self.read_part(WRITER_NAME, 0, MARKER_MAX))

    def write_marker(self, data: bytes) -> bool:
        """Store a marker at the remote's root, which has none; return whether it was stored.

        If another process stores one at the same time, that one stays, where the remote can
        tell that a name was taken.
        """
        try:
            written = str(
                self.upload_new(WRITER_NAME, MeasuredFile(ContentFile(data), WRITER_NAME))
            )
        except FileExistsError:
            return False
        if written != WRITER_NAME:
            self.remove(written)
        return written == WRITER_NAME

    # Must be implemented

    @abstractmethod
    def upload(self, name: str, content: MeasuredFile) -> str:
        """Store ``content`` under ``name``. Returns the name that the remote chose."""

    def _require_content(self, name: str, pieces: Iterable[bytes], sent: Content) -> str:
        found = checksum_of(pieces)
        self._require(name, "bytes", found.size, sent.size)
        self._require(name, "the checksum", str(found), sent.checksum)
        return "content"

    @staticmethod
    def _require(name: str, what: str, found: object, sent: object) -> None:
        if found != sent:
            raise VerificationError(
                f"The remote holds {name!r} with {what} {found}, but {sent} was sent."
            )


def _skip(file: File, count: int) -> None:
    while count > 0 and (piece := file.read(min(PIECE, count))):
        count -= len(piece)
