"""Removes the objects of a file from its remotes."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Protocol

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File

from ..exceptions import LeaseLost, OtherWriter, RemoteChanged
from ..files import presence, successors
from ..ledger.copies import Copy, at_copy, copies
from ..ledger.database import in_transaction
from ..ledger.models import QueuedFile
from ..ledger.remotes import remotes
from ..ledger.states import State
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime.forks import after_fork
from ..uploaders import Uploader
from . import destinations
from .copies import Likeness, likeness
from .delays import OPERATOR_DELAY, backoff
from .owners import Others
from .parts import TransferringStorage, sides_of, storage_of
from .writers import PlaceMarker


class Claim(Protocol):
    """A claim under which an object is removed."""

    def confirm(self) -> None:
        """Raise ``LeaseLost`` if the claim is void."""


class Removal:
    """The removal of one object, if it is the file's.

    ``original`` reads another object with the bytes of the file.
    """

    def __init__(
        self,
        storage: TransferringStorage,
        row: QueuedFile,
        claim: Claim,
        original: Callable[[], Iterable[bytes]] | None = None,
    ) -> None:
        self._storage = storage
        self._row = row
        self._claim = claim
        self._original = original
        # Otherwise the name was deleted without ever having had a row.
        self._was_saved = bool(row.checksum or row.size)

    @cached_property
    def _uploader(self) -> Uploader:
        """The remote's uploader; a file that was never sent does not need one."""
        return self._storage.uploader

    def run(self) -> None:
        remote_name = self._row.object_name
        if not remote_name:
            return
        destinations.require_same_place(self._storage, self._row)
        PlaceMarker(self._storage).require_own()
        if self._is_its_own(remote_name):
            self._claim.confirm()  # without a claim, the object may be a newer file's
            if self._was_saved and (self._row.unconfirmed or not self._row.transferred_at):
                self._uploader.forget_unfinished(remote_name)
            self._uploader.remove(remote_name)

    def _is_its_own(self, remote_name: str) -> bool:
        """Return whether the object is this file's, and no other file of the ledger needs it."""
        row, others = self._row, Others(self._row, self._storage.remote)
        if not row.unconfirmed and self._was_saved:
            return not others.have(remote_name)
        # The file may not have reached the remote, or was never sent.
        is_proved = not row.unconfirmed or self._is_proved(remote_name)
        return is_proved and not others.have_under_any_name(remote_name)

    def _is_proved(self, remote_name: str) -> bool:
        """Return whether the bytes of the file prove that an unconfirmed upload made the object."""
        row = self._row
        if not self._uploader.exists(remote_name):
            self._uploader.forget_unfinished(remote_name)
            return False
        sent = row.sending
        is_current = sent is not None and (sent.size, sent.checksum) == (row.size, row.checksum)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._opened()) if is_current else None
            found = likeness(self._uploader, row, remote_name, file) if file else Likeness.NONE
        if found is Likeness.SAME:
            return True
        if found is Likeness.BEGINNING and not self._uploader.replaces:
            return True
        logger.warning(
            "The object %r on the remote is not removed: it isn't known whether an interrupted "
            "upload of %s made it.",
            remote_name,
            row,
        )
        return False

    @contextlib.contextmanager
    def _opened(self) -> Iterator[File | None]:
        """Open the bytes of the file; None if they are nowhere else."""
        local = self._storage.local
        name = successors.current_name(local, self._row.name, self._row)
        if presence.exists(local, name):
            with local.open(name) as file:
                yield file
        elif self._original:
            with tempfile.TemporaryFile() as copy:
                copy.writelines(self._original())
                yield File(copy)
        else:
            yield None


# Further copies that are of no use

EVERY = 10.0  # seconds between two looks of a process ...
AT_ONCE = 20  # ... if fewer copies than that were due


class _Rounds:
    """When this process looks again for copies that are of no use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_at = 0.0

    def dispose(self, may_go_on: Callable[[], bool]) -> None:
        if in_transaction() or not self._lock.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._next_at and may_go_on():
                self._next_at = time.monotonic() + EVERY
                if dispose_due(AT_ONCE, may_go_on) == AT_ONCE:
                    self._next_at = 0.0
        finally:
            self._lock.release()


_rounds = _Rounds()


def dispose_a_little(may_go_on: Callable[[], bool]) -> None:
    """Remove a few objects, unless it is too early; for a worker after a search."""
    _rounds.dispose(may_go_on)


def _forget() -> None:
    global _rounds
    _rounds = _Rounds()


after_fork(_forget)


class _CopyClaim:
    """The claim of this process on a copy that it removes."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def confirm(self) -> None:
        copy = self._copy
        same = copies().filter(pk=copy.pk, lease_token=copy.lease_token)
        if not same.exclude(file__place=copy.place).exists():
            raise LeaseLost(f"This worker lost its lease on {copy}.")


def dispose_due(limit: int, may_go_on: Callable[[], bool] = lambda: True) -> int:
    """Remove the objects of up to ``limit`` copies that are of no use; return how many are gone.

    Those whose remote is closed wait until it is open.
    """
    count = 0
    closed = remotes().closed().values("digest")
    found = copies().removable().exclude(place__in=closed)
    for copy in found.order_by("due_at")[:limit]:
        if not may_go_on():
            break
        claimed = copies().claim(copy)
        if claimed is not None:
            count += dispose(claimed)
    return count


def dispose(copy: Copy) -> bool:
    """Remove the object of a claimed copy, and the copy; return False if that is to be repeated."""
    file, row = copy.file, at_copy(copy.file, copy)
    if file.place == copy.place:  # an operator has declared that the file is there
        return bool(copies().drop(copy))
    try:
        storage = storage_of(row.alias, row.task)

        def original() -> Iterator[bytes]:
            return storage.with_remote_of(file).uploader.read_back(file.remote_name)

        known = original if file.state == State.TRANSFERRED else None
        Removal(storage.with_remote_of(row), row, _CopyClaim(copy), known).run()
    except LeaseLost:
        return False
    except Exception as error:
        text = reason(error, *sides_of(row))
        logger.warning("An old copy of %s could not be removed: %s", row, text)
        is_waiting = isinstance(error, ImproperlyConfigured | OtherWriter | RemoteChanged)
        delay = OPERATOR_DELAY if is_waiting else backoff(copy.attempts + 1)
        copies().postpone(copy, delay, text)
        return False
    return bool(copies().drop(copy))
