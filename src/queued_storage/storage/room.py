"""Whether the local storage has room for a new file, and what is done if it has not."""

import contextlib
import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

from django.core.files import File
from django.db import connections

from ..exceptions import NoRoom
from ..files.limits import Disk, Limits
from ..ledger import localsides, measures
from ..ledger.database import in_transaction, ledger_database
from ..reporting.hourly import Hourly
from ..reporting.logs import logger
from ..reporting.reasons import reason
from .sums import Sum, local_sum, pending_sum

FULL = (errno.ENOSPC, errno.EDQUOT)
EVICT_FOR = 2.0  # seconds that a save may spend on evicting
EVICT_EVERY = 5.0  # seconds before the next save tries that after one could not evict enough
DRAFT = 64 * 1024  # bytes that a file is given more than it had, before it is written to
HINT = " With when_full='remote' such files are saved to the remote."
Answer = TypeVar("Answer")

_refusals = Hourly()
_places = threading.BoundedSemaphore(4)  # threads that change the ledger for saves
_evict_again_at: dict[str, float] = {}  # by storage


class Room:
    """The room for one new file in a local storage."""

    def __init__(self, storage: Any, name: str, content: File | None = None, size: int = 0) -> None:
        self._storage = storage
        self._alias: str = storage.alias
        self._limits: Limits = storage.limits
        self._name = name
        self._content = content
        self._size = size or _size_of(content)

    def used_by(
        self,
        save: Callable[[], Answer],
        written: Callable[[Answer], int],
        save_remotely: Callable[[], Answer],
    ) -> Answer:
        """Call ``save`` if there is room, and once more after an eviction if the disk is full.

        ``written`` tells the size of what it saved. If there is no room, call ``save_remotely`` if
        the project wants that, or raise ``NoRoom``.
        """
        try:
            return self._used_by(save, written)
        except NoRoom as error:
            if self._limits.when_full != "remote":
                self._refuse(str(error), error, hint=HINT)
            return self._saved_remotely(save_remotely, error)

    def used_by_draft(self, publish: Callable[[], Answer]) -> Answer:
        """Call ``publish``, for new content of a file that is on the disk already, or raise
        ``NoRoom`` at the limit. It is never saved to the remote, whose old object may be needed."""
        try:
            with self._taken():
                return publish()
        except NoRoom as error:
            self._refuse(str(error), error, hint="")

    def make(self) -> None:
        """Evict files if the disk has less space than the content is going to need."""
        disk = Disk.of(self._storage.local)
        needed = self._size + DRAFT
        if disk and disk.free < needed:
            self._evict(needed - disk.free)

    def _used_by(self, save: Callable[[], Answer], written: Callable[[Answer], int]) -> Answer:
        if self._limits.max_bytes is None and self._limits.max_pending_bytes is None:
            return self._saved(save)
        with self._taken() as note:
            saved = self._saved(save)
            note(written(saved))
            return saved

    def _saved(self, save: Callable[[], Answer]) -> Answer:
        try:
            return save()
        except OSError as error:
            if error.errno not in FULL or isinstance(error, NoRoom):
                raise
            return self._saved_after_eviction(save, error)

    def _saved_remotely(self, save: Callable[[], Answer], full: NoRoom) -> Answer:
        if not _rewind(self._content):
            self._refuse(f"{full}; its content can be read only once", full, hint="")
        try:
            saved = save()
        except NoRoom as error:
            text = f"{full}; it cannot be saved to the remote either: {error}"
            self._refuse(text, error, hint="")
        count(self._alias, "written_through")
        return saved

    @contextlib.contextmanager
    def _taken(self) -> Iterator[Callable[[int], None]]:
        """Take the room within both limits; yield what is told the size when it is known."""
        limits = self._limits
        with contextlib.ExitStack() as stack:
            if limits.max_bytes is not None:
                stack.enter_context(self._kept_within(limits.max_bytes))
            if limits.max_pending_bytes is None:
                yield lambda size: None
            else:
                yield stack.enter_context(self._pending_within(limits.max_pending_bytes))

    @contextlib.contextmanager
    def _pending_within(self, limit: int) -> Iterator[Callable[[int], None]]:
        pending, size = pending_sum(self._alias), self._size
        if pending.take(size, limit):
            raise NoRoom(
                f"max_pending_bytes is {limit:,}, and with it more bytes would wait for their "
                f"transfer. Let workers transfer what is pending, or raise the limit"
            )
        try:
            yield lambda written: pending.add(written - size)
        finally:
            pending.recorded(size)

    @contextlib.contextmanager
    def _kept_within(self, limit: int) -> Iterator[None]:
        """Evict what is too much with the new file. If nothing can be evicted, it is saved anyway:
        ``max_bytes`` is no limit for files that are only local."""
        local = local_sum(self._alias)
        excess = local.take(self._size, limit)
        if excess:
            local.take(self._size, math.inf)
            self._make_room(local, excess)
        try:
            yield
        finally:
            local.recorded(self._size)

    def _make_room(self, local: Sum, excess: int) -> None:
        now = time.monotonic()
        if now < _evict_again_at.get(self._alias, 0):
            return
        _evict_again_at[self._alias] = now + EVICT_FOR  # others need not do the same meanwhile
        asked = local.asked_at
        freed = self._evict(excess)
        local.note_evicted(freed, asked)
        _evict_again_at[self._alias] = now + EVICT_EVERY if freed < excess else now

    def _saved_after_eviction(self, save: Callable[[], Answer], error: OSError) -> Answer:
        freed = self._evict(max(self._size, 1))
        if freed and _rewind(self._content):
            try:
                return save()
            except OSError as again:
                if again.errno not in FULL:
                    raise
                error = again
        raise NoRoom(
            f"{os.strerror(error.errno or 0)}, and nothing more can be evicted now. Free space on "
            f"the disk, or let workers transfer what is pending"
        ) from error

    def _evict(self, wanted: int) -> int:
        """Evict that many bytes, as far as possible in a short time, without asking the remote."""
        from ..transfers.freeing import Freeing  # which most processes of a site don't need

        until = time.monotonic() + EVICT_FOR
        freeing = Freeing(self._storage, asks_remote=False, until=until)
        try:
            found = aside(partial(freeing.free, wanted), EVICT_FOR)
        except Exception as error:
            extra = {"queued_storage": self._alias}
            logger.warning("Nothing of %r could be evicted: %s", self._alias, reason(error), extra)
            return freeing.found.freed_bytes
        return found.freed_bytes if found else 0

    def _refuse(self, why: str, error: Exception, *, hint: str) -> NoReturn:
        local = f"the local storage of {self._alias!r}"
        text = f"There is no room for {self._name!r} in {local}: {why}.{hint}"
        level = logging.DEBUG if _refusals.count(self._alias) is None else logging.WARNING
        logger.log(level, "%s", text, extra={"queued_storage": self._alias})
        count(self._alias, "refused")
        raise NoRoom(text) from error


def aside(action: Callable[[], Answer], seconds: float) -> Answer | None:
    """Change the ledger outside of the transaction of this thread; None if that is not possible.

    What the thread's own transaction does may be rolled back, and holds its locks for long. SQLite
    lets no other connection write meanwhile.
    """
    if not in_transaction():
        return action()
    if connections[ledger_database()].vendor == "sqlite":
        return None
    return measures.in_time(action, seconds, places=_places)


def count(alias: str, column: str) -> None:
    """Count a refused or written-through save, unless the ledger cannot be changed now."""
    with contextlib.suppress(Exception):
        if localsides.are_available():
            aside(partial(localsides.local_sides().add, alias, column, 1), 1.0)


def _size_of(content: File | None) -> int:
    """The size of new content; 0 if it is not known before it was read."""
    try:
        size: int = content.size  # type: ignore[union-attr]  # None has none
    except Exception:  # of a stream, or of a file without a name
        return 0
    return size


def _rewind(content: File | None) -> bool:
    """Return whether content that was read can be read again from its start."""
    try:
        content.seek(0)  # type: ignore[union-attr]
    except Exception:  # it can be read only once
        return False
    return True
