"""Files of a storage that can be opened again after they were closed."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, cast

from django.core.files import File

OpenAgain = Callable[[str], File]


class StoredFile(File):
    """An open file of a storage, which ``open()`` opens again through the storage.

    Django's own files open the path that they had. Once the local copy is evicted, or has new
    content, nothing or another file may be there. All else is up to the file inside.
    """

    def __init__(self, opened: File, open_again: OpenAgain) -> None:
        super().__init__(_inner(opened), opened.name)
        self.mode = getattr(opened, "mode", "rb")
        self._open_again = open_again

    def open(self, mode: str | None = None, *args: Any, **kwargs: Any) -> Self:
        """Rewind the file, or open it again, wherever its bytes are now."""
        if not self.closed:
            self.seek(0)
            return self
        opened = self._open_again(mode or self.mode)
        self.file, self.name = _inner(opened), opened.name
        self.mode = mode or self.mode
        self.__dict__.pop("size", None)  # that of earlier content
        return self

    @property
    def closed(self) -> bool:
        return bool(cast(Any, self.file).closed)

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        if isinstance(self.file, File):
            return self.file.chunks(chunk_size)
        return super().chunks(chunk_size)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.file) if isinstance(self.file, File) else super().__iter__()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block as the file inside does: a file being written may be discarded."""
        if isinstance(self.file, File):
            self.file.__exit__(exception_type, exception, traceback)
        else:
            self.close()

    def __getattr__(self, attribute: str) -> Any:
        """Look up what the file inside has besides the methods of Django's files."""
        file = self.__dict__.get("file")
        if isinstance(file, File) and not attribute.startswith("__"):
            return getattr(file, attribute)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")


def unwrapped(file: File) -> File:
    """Return the file inside, unless it is a plain file of the system."""
    is_inside = isinstance(file, StoredFile) and isinstance(file.file, File)
    return cast(File, file.file) if is_inside else file


def _inner(opened: File) -> Any:
    """Return what Django's plain file holds; any other kind of file stays whole."""
    if isinstance(opened, StoredFile) or type(opened) is File:
        return opened.file
    return opened
