"""Files opened for writing, which become visible when they are closed."""

import io
from collections.abc import Callable
from types import TracebackType

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import Storage

from ..ledger.states import Content
from . import localfiles
from .streams import content_of


def is_for_writing(mode: str) -> bool:
    """Return whether a mode of ``open()`` changes the file."""
    return bool(set(mode) & set("wax+"))


class WritableFile(File):
    """A draft beside the final name, which it takes on ``close()``.

    A block that ends with an exception discards the draft, and so does a process that dies.
    """

    def __init__(
        self,
        local: Storage,
        name: str,
        mode: str,
        existing: File | None,
        publish: Callable[[str, Content], None],
    ) -> None:
        self._local = local
        self._publish = publish
        self._draft = localfiles.unfinished_name(name)
        try:
            self._draft = local.save(self._draft, existing or ContentFile(b""))
            super().__init__(local.open(self._draft, mode.replace("x", "w")), name)
            if "a" in mode:
                self.seek(0, io.SEEK_END)  # Django's storage in memory starts at 0
        except BaseException:
            localfiles.discard(local, self._draft)
            raise
        self.mode = mode

    def close(self) -> None:
        """Publish the content; after a failure it is discarded and the file stays as it was."""
        if self.closed:
            return
        try:
            super().close()
            self._publish(self._draft, content_of(self._local, self._draft))
        finally:
            self._discard()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exception_type is None:
            self.close()
        elif not self.closed:
            self._abandon()

    def __del__(self) -> None:
        if hasattr(self, "file") and not self.closed:
            self._abandon()

    def _abandon(self) -> None:
        try:
            super().close()  # which may raise: it writes what is buffered, and the disk may be full
        finally:
            self._discard()

    def _discard(self) -> None:
        localfiles.discard(self._local, self._draft)
