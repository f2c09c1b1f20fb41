"""The methods of a queued storage that async code awaits."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.files import File

from ..files.asyncfiles import AsyncFile
from ..ledger.names import Name
from . import tiers
from .barrier import Barrier
from .reserving import ReservingStorage
from .results import TransferResult, pauses


class AsyncStorage(ReservingStorage):
    """The coroutines, with the names that Django's own async methods have.

    Each runs the method without the ``a`` where Django runs sync code, as the async methods of
    querysets do. If a task is cancelled while it awaits one, the call goes on to its end.
    """

    if TYPE_CHECKING:

        def open(self, name: Name, mode: str = "rb") -> File: ...
        def save(self, name: Name | None, content: Any, max_length: int | None = None) -> str: ...
        def transfer(self, name: Name) -> TransferResult: ...

    async def aurl(self, name: str | None, **kwargs: Any) -> str:
        """Do the same as ``url()``."""
        return await sync_to_async(self.url)(name, **kwargs)

    async def aurls(self, names: Iterable[Name]) -> dict[str, str]:
        """Do the same as ``urls()``."""
        return await sync_to_async(self.urls)(list(names))

    async def aexists(self, name: Name) -> bool:
        """Do the same as ``exists()``."""
        return await sync_to_async(self.exists)(name)

    async def asize(self, name: Name) -> int:
        """Do the same as ``size()``."""
        return await sync_to_async(self.size)(name)

    async def aopen(self, name: Name, mode: str = "rb") -> AsyncFile:
        """Open a file whose methods are awaited."""
        return AsyncFile(await sync_to_async(self.open)(name, mode))

    async def asave(self, name: Name | None, content: Any, max_length: int | None = None) -> str:
        """Do the same as ``save()``."""
        return await sync_to_async(self.save)(name, content, max_length=max_length)

    async def adelete(self, name: Name) -> None:
        """Do the same as ``delete()``."""
        await sync_to_async(self.delete)(name)

    async def atransfer(self, name: Name) -> TransferResult:
        """Do the same as ``transfer()``."""
        return await sync_to_async(self.transfer)(name)

    def _wanted(self, names: Iterable[Name] | None) -> list[Name] | None:
        return None if names is None else [self._stored(name).text for name in names]

    def _barrier(
        self, names: Iterable[Name] | None, copies: int = 1, tier: str | None = None
    ) -> Barrier:
        if copies > len(self.sides.mirrors) + 1:
            raise ValueError(
                f"The storage {self.alias!r} cannot make {copies} copies: it needs the option "
                f"'mirrors' with {copies - 1} or more remotes."
            )
        if tier is not None and tier not in (known := list(tiers.tiers(self))):
            raise ValueError(
                f"The files of {self.alias!r} do not get to {tier!r}, but to "
                f"{', '.join(map(repr, known))}."
            )
        barrier = Barrier.of(self.alias, self._wanted(names), copies)
        inner = tiers.behind(self)
        if isinstance(inner, AsyncStorage) and tier != tiers.name_of_remote(self):

            def next_one(remote_names: list[str] | None) -> Barrier:
                found = inner._barrier(remote_names, tier=tier)
                return found.require_no_held() if tier else found

            barrier.then(next_one, is_named=names is not None)
        return barrier

    async def await_transferred(
        self,
        names: Iterable[Name] | None = None,
        timeout: float | None = None,
        *,
        copies: int = 1,
        tier: str | None = None,
    ) -> None:
        """Do the same as ``wait()``, without holding a thread between two queries."""
        barrier = await sync_to_async(self._barrier)(names, copies, tier)
        is_over = sync_to_async(barrier.is_over)
        for pause in pauses(timeout):
            if await is_over():
                return
            await asyncio.sleep(pause)
        if not await is_over():
            raise await sync_to_async(barrier.too_late)(timeout)
