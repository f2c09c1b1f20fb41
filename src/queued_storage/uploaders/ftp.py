"""The uploader for django-storages' ``FTPStorage``."""

from typing import Any, cast

from ..models import Content
from .generic import GenericUploader


class FTPUploader(GenericUploader):
    """Asks for the size of the one file.

    ``FTPStorage.size()`` reads it out of the listing of the directory, in which one name with a
    space makes it raise a ``ValueError`` for every file.
    """

    def verify_size(self, name: str, sent: Content) -> str:
        self._require(name, "bytes", self._size(name), sent.size)
        return "size"

    def _size(self, name: str) -> int | None:
        storage = cast(Any, self.remote)
        storage._start_connection()
        storage._connection.voidcmd("TYPE I")  # in the other type, line ends would count
        return cast(int | None, storage._connection.size(name))
