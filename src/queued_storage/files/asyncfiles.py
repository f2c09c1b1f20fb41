"""Files for async code: the methods of an open file as coroutines."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.core.files import File


class AsyncFile:
    """An open file whose methods are awaited; each call runs where Django runs sync code.

    ``file`` is the file itself, for sync code.
    """

    def __init__(self, file: File) -> None:
        self.file = file

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.file!r}>"

    @property
    def name(self) -> str | None:
        return self.file.name

    @property
    def closed(self) -> bool:
        return self.file.closed

    async def read(self, size: int = -1) -> Any:
        return await self._call("read", size)

    async def readline(self) -> Any:
        return await self._call("readline")

    async def write(self, data: Any) -> int:
        written: int = await self._call("write", data)
        return written

    async def seek(self, offset: int, whence: int = 0) -> int:
        position: int = await self._call("seek", offset, whence)
        return position

    async def tell(self) -> int:
        position: int = await self._call("tell")
        return position

    async def size(self) -> int:
        size: int = await sync_to_async(lambda: self.file.size)()
        return size

    async def chunks(self, chunk_size: int | None = None) -> AsyncIterator[Any]:
        """Yield the whole file in pieces, for example to a ``StreamingHttpResponse``.

        The file is closed afterwards, also if the client goes away.
        """
        size = chunk_size or File.DEFAULT_CHUNK_SIZE
        try:
            await self.seek(0)
            while data := await self.read(size):
                yield data
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the file; new content becomes visible, as a whole."""
        await self._call("close")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; a block that ends with an exception discards what was written."""
        await self._call("__exit__", exception_type, exception, traceback)

    async def _call(self, method: str, *args: Any) -> Any:
        return await sync_to_async(getattr(self.file, method))(*args)
