"""What an uploader is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from django.core.files import File
from django.core.files.storage import Storage

from ..exceptions import VerificationError
from ..files.streams import MeasuredFile, checksum_of
from ..files.walking import names_on
from ..ledger.states import Content

PIECE = 1024 * 1024  # bytes


class Uploader(ABC):
    """Puts one file on ``remote`` under a chosen name, and says what it proved.

    It stores objects where and how the remote's own ``save()`` would have stored them, and holds
    no more than a few pieces of a file in memory.
    """

    # Whether upload() lets new content take the place of old in one step. Where it does not, what
    # is under the name is deleted first.
    replaces: ClassVar[bool] = False

    def __init__(self, remote: Storage) -> None:
        self.remote = remote
        # Called with each piece that is read back: a long comparison is no stall.
        self.progress: Callable[[], object] = lambda: None
        # Whether the answer to the last upload was as good as verify() with "checksum".
        self.has_proof = False

    # May be overridden

    @classmethod
    def suits(cls, remote: Storage) -> bool:
        """Whether all that the remote is configured to do can be honoured."""
        return True

    def upload_new(self, name: str, content: MeasuredFile) -> str:
        """The same under a name that was free a moment ago.

        ``FileExistsError`` is raised, and what is there stays as it is, if it is free no more and
        the remote can tell.
        """
        return self.upload(name, content)

    def never_overwrites(self, size: int) -> bool:
        """Whether ``upload_new()`` is known to leave alone what is under the name, and to store a
        file of this size as a whole or not at all. Then nobody need look first."""
        return False

    def forget_unfinished(self, name: str) -> None:
        """Have the remote drop what it keeps of uploads to ``name`` that were cut off, apart from
        an object."""

    def refuses_wrong_checksum(self, name: str) -> bool | None:
        """Whether the remote refuses bytes that are not those of the checksum sent along with
        them; None if ``upload()`` sends none. What it does not refuse is stored under ``name``."""
        return None

    def remove(self, name: str) -> None:
        """See to it that nothing is under the name. Some storages raise where nothing was."""
        try:
            self.remote.delete(name)
        except Exception:
            if self.remote.exists(name):
                raise

    def verify(self, name: str, sent: Content, level: str) -> str:
        """Compare what the remote holds with what was sent, at least as ``level`` asks.

        Returns the level that was reached: ``"size"`` where ``"checksum"`` was asked for and the
        remote offers none. Raises ``VerificationError`` if the two differ.
        """
        if level == "content":
            return self.verify_content(name, sent)
        return self.verify_size(name, sent)

    def verify_size(self, name: str, sent: Content) -> str:
        self._require(name, "bytes", self.remote.size(name), sent.size)
        return "size"

    def verify_content(self, name: str, sent: Content) -> str:
        found = checksum_of(self._pieces(name))
        self._require(name, "bytes", found.size, sent.size)
        self._require(name, "the checksum", str(found), sent.checksum)
        return "content"

    def _pieces(self, name: str) -> Iterator[bytes]:
        for piece in self.read_back(name):
            self.progress()
            yield piece

    def read_back(self, name: str) -> Iterator[bytes]:
        """The bytes that a reader of the remote gets."""
        with self.remote.open(name, "rb") as file:
            yield from file.chunks(PIECE)

    def read_part(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Those of them from ``start`` on and before ``end``."""
        with self.remote.open(name, "rb") as file:
            if file.seekable():
                file.seek(start)
            else:
                _skip(file, start)
            while start < end and (piece := file.read(min(PIECE, end - start))):
                start += len(piece)
                yield piece

    def names(self, under: str = "") -> Iterator[str]:
        """The names of all files on the remote, or of those in a directory of it."""
        return names_on(self.remote, under)

    # Must be implemented

    @abstractmethod
    def upload(self, name: str, content: MeasuredFile) -> str:
        """Store ``content`` under ``name``; returns the name that the remote gave it."""

    @staticmethod
    def _require(name: str, what: str, found: object, sent: object) -> None:
        if found != sent:
            raise VerificationError(
                f"The remote holds {name!r} with {what} {found}, but {sent} was sent."
            )


def _skip(file: File, count: int) -> None:
    while count > 0 and (piece := file.read(min(PIECE, count))):
        count -= len(piece)
