"""Saves files to a local storage without paths, each under a name that is reserved first.

Such a storage may overwrite what another process saves under the same name at the same moment, and
cannot tell whose file it then removes after a failure. So the ledger has the name before a byte is
written: as a tombstone with a claim on it. If the process dies, a worker purges both.
"""

import contextlib
from collections.abc import Callable, Iterator

from django.core.files import File
from django.db import transaction

from ..exceptions import NameUnavailable
from ..files.localfiles import discard
from ..files.streams import MeasuredFile
from ..ledger.models import QueuedFile
from ..ledger.names import tidy
from ..ledger.preparations import preparations
from ..ledger.states import Content
from .gated import Saved
from .parts import Parts
from .renewing import RenewingStorage, content_type_of


class ReservingStorage(RenewingStorage):
    """The part of a queued storage that saves to local storages without paths."""

    def _store_reserved(self, parts: Parts, names: Iterator[str], content: File) -> Saved:
        """Write the file under the first of these names that can be reserved, and record it."""
        local, source = parts.local, content
        with contextlib.ExitStack() as stack:
            while True:
                name = next(names)
                reservation = _Reservation.of(parts, name)
                if reservation is None:
                    continue
                with reservation.kept() as moved:
                    measured = MeasuredFile(source, name, moved)
                    chosen = tidy(local.save(name, measured))
                    written = measured.content
                    details = Content(
                        written.size, written.checksum, content_type_of(written, chosen)
                    )
                    if chosen == name:
                        reservation.fill(details)
                        return Saved(name, reservation.row.pk, details.size)
                if saved := self._record_new(parts, chosen, details):
                    return saved
                # The name that the storage chose is that of a file without a local copy.
                source = stack.enter_context(local.open(chosen))
                source.content_type = details.content_type  # type: ignore[attr-defined]  # as uploads
                stack.callback(discard, local, chosen)


class _Reservation:
    """A name that no other process can save a file under."""

    def __init__(self, parts: Parts, row: QueuedFile, *, is_new: bool) -> None:
        self.row = row
        self._parts = parts
        self._is_new = is_new
        self._is_over = False

    @classmethod
    def of(cls, parts: Parts, name: str) -> "_Reservation | None":
        """Reserve a name; None if a file has it, or one that a worker is deleting."""
        rows = parts.rows
        pk = rows.record_tombstone(parts.alias, name, remote_name="", place=parts.place.digest)
        is_new = pk is not None
        if pk is None:
            entry = rows.latest_entry(parts.alias, name)
            if entry is None or not entry.is_deleted or entry.is_local:
                return None
            pk = entry.pk
        row = rows.claim(pk)
        if row is None or not (is_new or rows.reserve(row)):
            return None
        return cls(parts, row, is_new=is_new)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Callable[[int], None]]:
        """Keep the name for the block; what was written is removed again unless it was filled.

        Provides a function to call with the number of bytes that were written.
        """
        from ..transfers import leases  # which most processes of a site don't need

        with leases.keep(self.row) as lease:
            try:
                yield lease.moved
            except BaseException:
                self._give_up(lambda: discard(self._parts.local, self.row.name))
                raise
            if not self._is_over:
                self._give_up(lambda: None)

    def fill(self, content: Content) -> None:
        """Let the reserved name be that of a file; it is transferred next."""
        parts = self._parts
        with parts.in_one():
            is_filled = parts.rows.fill(self.row, content, **parts.row_options)
            if is_filled and parts.prepares:
                row = parts.rows.get(pk=self.row.pk)
                preparations().begin(row.pk, row.generation, content)
        if not is_filled:
            raise NameUnavailable(
                f"The file {self.row.name!r} was not written in time: a worker has taken its name "
                f"back. Save it again."
            )
        self._is_over = True

    def _give_up(self, remove: Callable[[], None]) -> None:
        """End the claim; if the ledger cannot be asked, a worker does this later."""
        rows = self._parts.rows
        with contextlib.suppress(Exception), transaction.atomic(using=rows.db):
            if not rows.unreserve(self.row):  # another process may have the name
                return
            remove()
            if self._is_new:
                rows.remove_tombstone(self.row)
            else:
                rows.release_claim(self.row)
