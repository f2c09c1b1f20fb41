"""Removes an object of a file from a remote."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Protocol

from django.core.files import File

from ..files import presence, successors
from ..ledger.models import QueuedFile
from ..reporting.logs import logger
from ..uploaders import Uploader
from . import destinations
from .copies import Likeness, likeness
from .owners import Others
from .parts import TransferringStorage
from .writers import PlaceMarker


class Claim(Protocol):
    """A claim under which an object is removed."""

    def confirm(self) -> None:
        """Raise ``LeaseLost`` if the claim is void."""


def was_saved(row: QueuedFile) -> bool:
    """Return whether there was a file; otherwise a name was deleted that never had a row."""
    return bool(row.checksum or row.size)


class Removal:
    """The removal of one object, if it is the file's.

    ``original`` reads another object with the bytes of the file. ``is_needed`` says of a file that
    certainly has the object whether another one needs it, too, if the caller knows.
    """

    def __init__(
        self,
        storage: TransferringStorage,
        row: QueuedFile,
        claim: Claim,
        original: Callable[[], Iterable[bytes]] | None = None,
        *,
        is_needed: bool | None = None,
    ) -> None:
        self._storage = storage
        self._row = row
        self._claim = claim
        self._original = original
        self._is_needed = is_needed

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
            if was_saved(self._row) and (self._row.unconfirmed or not self._row.transferred_at):
                self._uploader.forget_unfinished(remote_name)
            self._uploader.remove(remote_name)

    def _is_its_own(self, remote_name: str) -> bool:
        """Return whether the object is this file's, and no other file of the ledger needs it."""
        row = self._row
        is_certain = not row.unconfirmed and was_saved(row)
        if is_certain and self._is_needed is not None:
            return not self._is_needed
        others = Others(row, self._storage.remote)
        if is_certain:
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
