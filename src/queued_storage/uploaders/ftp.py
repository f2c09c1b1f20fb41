"""The uploader for django-storages' ``FTPStorage``."""

import ftplib
import posixpath
import re
from collections.abc import Iterator
from typing import Any, cast

from ..ledger.states import Content
from .generic import GenericUploader

MISSING = re.compile("[45]50")  # an answer to a listing that may mean that nothing is there
ABSENT = re.compile(r"no such|no files|not found|not exist|cannot find", re.IGNORECASE)


class FTPUploader(GenericUploader):
    """Requests the size of one file, and machine-readable listings.

    ``FTPStorage`` parses the listing for people. If it contains a name with a space, ``size()`` and
    ``listdir()`` raise ``ValueError`` for every file of the directory.
    """

    def verify_size(self, name: str, sent: Content) -> str:
        self._require(name, "bytes", self._size(name), sent.size)
        return "size"

    def _size(self, name: str) -> int | None:
        connection = self._connection()
        connection.voidcmd("TYPE I")  # for text, the server would convert line ends
        return connection.size(name)

    def exists(self, name: str) -> bool:
        """Look for the name in the listing of its directory.

        ``FTPStorage`` returns False for every answer that is an error. Here the answer must say
        that there is no such directory, or no file in it, or the directory must be missing in the
        listing of the one above.
        """
        directory, file_name = posixpath.split(name)
        try:
            found = self._connection().nlst(directory)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            if not MISSING.match(str(error)):
                raise
            if ABSENT.search(str(error)) or (directory and not self.exists(directory)):
                return False
            raise
        return not {name, file_name}.isdisjoint(each.rstrip("/") for each in found)

    def remove(self, name: str) -> None:
        """Delete the file: ``FTPStorage`` deletes nothing if it finds no file."""
        try:
            self._connection().delete(name)
        except ftplib.error_perm:
            if self.exists(name):
                raise

    def names(self, under: str = "") -> Iterator[str]:
        try:
            yield from self._machine_readable(under)
        except ftplib.error_perm as error:
            if not str(error).startswith("50"):  # not an unknown command, as with vsftpd
                raise
            yield from super().names(under)

    def _machine_readable(self, under: str) -> Iterator[str]:
        waiting = [under]
        while waiting:
            directory = waiting.pop()
            for name, facts in list(self._connection().mlsd(directory)):
                path = posixpath.join(directory, name)
                if facts["type"] == "dir":
                    waiting.append(path)
                elif facts["type"] == "file":
                    yield path

    def _connection(self) -> ftplib.FTP:
        # FTPStorage has no public way to its connection, and offers neither command.
        storage = cast(Any, self.remote)
        storage._start_connection()
        return cast(ftplib.FTP, storage._connection)
