"""The thread of a worker that keeps local storages within their limits."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from django.db import connections

from ..files import volumes
from ..files.limits import Disk, Limits
from ..ledger.localsides import (
    LocalSide,
    are_available,
    local_bytes,
    local_sides,
    pending_bytes,
)
from ..reporting.logs import logger
from ..signals import local_space_changed
from .freeing import Found, Freeing
from .lanes import guarded
from .parts import TransferringStorage, storage_of

EVERY = 2.0  # seconds between two looks at a local storage, or longer if a look takes long
AT_ONCE = 20.0  # seconds that one look may evict, before the other storages have their turn
COST = 20  # a look that took a second is followed by so many seconds of pause


class Evictor:
    """Looks regularly whether local storages have more than they may keep, and evicts that.

    Of all processes that look, one at a time has the lease of a local storage. The thread ends
    after each look.
    """

    def __init__(self, names: Iterator[str], is_stopping: Callable[[], bool]) -> None:
        self._names = names
        self._is_stopping = is_stopping
        self._next_look = 0.0
        self._thread: threading.Thread | None = None

    def look(self, aliases: Collection[str]) -> None:
        """Start the thread if a storage of these has limits, unless it is too early."""
        if self._is_stopping() or time.monotonic() < self._next_look or not self.is_idle():
            return
        self._next_look = time.monotonic() + EVERY
        if limited := list(limited_storages(aliases)):
            work = partial(self._work, limited)
            self._thread = threading.Thread(target=work, name=next(self._names), daemon=True)
            with suppress(RuntimeError):  # the interpreter ends, or has no more threads
                self._thread.start()

    def is_idle(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads())

    def threads(self) -> list[threading.Thread]:
        thread = self._thread
        return [thread] if thread and thread.ident else []

    def _work(self, limited: list[TransferringStorage]) -> None:
        try:
            for storage in limited:
                guarded(partial(keep_within_limits, storage, self._is_stopping))
        finally:
            connections.close_all()


def limited_storages(aliases: Collection[str]) -> Iterator[TransferringStorage]:
    """Yield the storages of these aliases that have limits, as far as they can be made."""
    for alias in aliases:
        with suppress(Exception):  # its checks report the error
            storage = storage_of(alias, "")
            if storage.limits.are_given:
                yield storage


def keep_within_limits(
    storage: TransferringStorage, is_stopping: Callable[[], bool] = lambda: False
) -> Found | None:
    """Measure the local storage, evict what it may not keep, and record both.

    Return what was found; None if another process does so, or has done so a moment ago.
    """
    if not are_available() or volumes.is_missing(storage.alias, storage.local):
        return None
    side = local_sides().claim(storage.alias)
    return None if side is None else _Look(storage, side, is_stopping).run()


class _Look:
    """One look at a local storage, under the lease."""

    def __init__(
        self, storage: TransferringStorage, side: LocalSide, is_stopping: Callable[[], bool]
    ) -> None:
        self._storage = storage
        self._side = side
        self._is_stopping = is_stopping
        self._limits: Limits = storage.limits

    def run(self) -> Found:
        started = time.monotonic()
        local = local_bytes(self._storage.alias)
        wanted = self._limits.excess(local, self._disk(), ahead=self._saved_since(local))
        cost = time.monotonic() - started
        freeing = Freeing(self._storage, asks_remote=True, until=time.monotonic() + AT_ONCE)
        found = freeing.free(wanted, self._may_go_on) if wanted else freeing.found
        pending = pending_bytes(self._storage.alias)
        local = local_bytes(self._storage.alias) if found.freed_files else local
        still = self._limits.excess(local, self._disk())
        reason = self._reason(pending, still if found.freed_bytes < wanted else 0, found)
        self._record(local, pending, found, reason, max(EVERY / 2, cost * COST))
        return found

    def _disk(self) -> Disk | None:
        return Disk.of(self._storage.local)

    def _saved_since(self, local: int) -> int:
        """How much the local copies have grown since the last look, if that was just now."""
        return max(local - self._side.local_bytes, 0) if self._side.is_recent else 0

    def _may_go_on(self) -> bool:
        return not self._is_stopping() and bool(local_sides().renew(self._side))

    def _reason(self, pending: int, excess: int, found: Found) -> str:
        """Say why the storage is full; "" if it is not."""
        most = self._limits.max_pending_bytes
        if most is not None and pending >= most:
            return f"{pending:,} bytes are pending; max_pending_bytes is {most:,}."
        if excess <= 0:
            return ""
        if found.is_closed:
            return f"{excess:,} bytes too many, and nothing is evicted while the remote is closed."
        return f"{excess:,} bytes too many, and nothing more can be evicted."

    def _record(self, local: int, pending: int, found: Found, reason: str, pause: float) -> None:
        columns: dict[str, Any] = {
            "local_bytes": local,
            "pending_bytes": pending,
            "young_bytes": found.young_bytes,
            "uncopied_bytes": found.uncopied_bytes,
            "open_bytes": found.open_bytes,
            "failed_bytes": found.failed_bytes,
        }
        if disk := self._disk():
            columns |= {"disk_bytes": disk.size, "free_bytes": disk.free}
        is_recorded = local_sides().record(self._side, pause, reason, **columns)
        if is_recorded and bool(reason) != self._side.is_full:
            self._announce(reason)

    def _announce(self, reason: str) -> None:
        alias, extra = self._storage.alias, {"queued_storage": self._storage.alias}
        if reason:
            logger.warning("The local storage of %r is full: %s", alias, reason, extra=extra)
        else:
            logger.warning("The local storage of %r has room again.", alias, extra=extra)
        local_space_changed.send_robust(
            sender=type(self._storage),
            alias=alias,
            host=self._side.host,
            is_full=bool(reason),
            reason=reason,
        )
