"""The uploader for django-storages' ``FTPStorage``."""

import ftplib
import posixpath
from collections.abc import Iterator
from typing import Any, cast

from ..ledger.states import Content
from .generic import GenericUploader


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
