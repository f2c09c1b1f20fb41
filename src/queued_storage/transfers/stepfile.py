"""The file that a step works on, under the claim of the worker that runs the step."""

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator

from django.core.files import File
from django.core.files.storage import Storage

from ..files import localfiles, presence
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from .proxies import WatchedFile


class PreparedFile:
    """A ``StepFile``: bytes that lie under some local name, which may be a hidden one."""

    def __init__(
        self,
        row: QueuedFile,
        content: Content,
        local: Storage,
        local_name: str,
        attempt: int,
        progress: Callable[..., None],
    ) -> None:
        self.name: str = row.name
        self.storage: str = row.alias
        self.size = content.size
        self.content_type = content.content_type
        self.attempt = attempt
        self._local = local
        self._local_name = local_name
        self._progress = progress

    def open(self, mode: str = "rb") -> File:
        if set(mode) - set("rbt"):
            raise ValueError(
                "A step opens its file for reading, and returns REPLACE() to change it."
            )
        self._progress()
        with presence.errors_of(self.name):
            file = self._local.open(self._local_name, mode)
        return WatchedFile(file, self.name, lambda position: self._progress())

    def chunks(self) -> Iterator[bytes]:
        with self.open() as file:
            yield from file.chunks()

    @contextlib.contextmanager
    def local_path(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="queued-storage-") as directory:
            path = os.path.join(directory, posixpath.basename(self.name))
            if not self._link(path):
                with open(path, "wb") as copy:
                    copy.writelines(self.chunks())
            yield path

    def _link(self, path: str) -> bool:
        """Make ``path`` lead to the bytes; return whether that is possible."""
        if not localfiles.moves_files(self._local):  # its bytes may differ from those on the disk
            return False
        source = os.path.realpath(self._local.path(self._local_name))
        try:
            os.link(source, path)
        except OSError:  # another file system
            return False
        return True

    def progress(self) -> None:
        self._progress()
