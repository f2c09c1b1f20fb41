"""Moves a transferred file from a previous remote to the present one."""

from ..exceptions import LeaseLost, VerificationError
from ..ledger.copies import Copy, CopyState, at_copy, copies, exchange
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from . import destinations
from .copies import Upload, verify_upload
from .leases import Lease
from .parts import TransferringStorage
from .sending import Source, Throttle, sent


def move(
    storage: TransferringStorage,
    row: QueuedFile,
    lease: Lease,
    *,
    is_kept: bool = False,
    throttle: Throttle | None = None,
) -> None:
    """Copy a claimed file to the storage's own remote, verify the copy, and let readers use it.

    The object at the previous remote becomes a further copy, which is not removed if ``is_kept``.
    ``LeaseLost`` is raised if the file was changed meanwhile, ``VerificationError`` if the bytes at
    the previous remote are not those of the ledger.
    """
    _Move(storage, row, lease, throttle).run(is_kept=is_kept)


class _Move:
    def __init__(
        self,
        storage: TransferringStorage,
        row: QueuedFile,
        lease: Lease,
        throttle: Throttle | None,
    ) -> None:
        self._storage = storage
        self._old = storage.with_remote_of(row)
        self._row = row
        self._lease = lease
        self._source = Source(row, [(self._old, row)], lease, throttle)

    def run(self, *, is_kept: bool) -> None:
        storage, row = self._storage, self._row
        if self._old is storage:
            raise LeaseLost(f"{row} is not at a previous remote.")
        storage.require_two_places()
        destinations.remote_of(storage)  # before anything lies there
        place = storage.remote_place.digest
        copy = copies().begin(row, place)
        if copy.lease_token or copy.state == CopyState.REMOVING:
            raise LeaseLost(f"An old copy of {row} is being removed at the present remote.")
        verified = self._verified(copy)
        if not exchange(
            row,
            place,
            left_as=CopyState.TRANSFERRED,
            is_kept=is_kept,
            verified=verified,
            due_at=None,
            lease_token="",
            last_error="",
        ):
            raise LeaseLost(f"{row} was changed while it was moved.")

    def _verified(self, copy: Copy) -> str:
        """Return the level at which the copy at the present remote was verified, after it was sent
        if it is not there."""
        if copy.state == CopyState.TRANSFERRED and (level := self._verified_as_it_is(copy)):
            return level
        return self._sent(copy)

    def _verified_as_it_is(self, copy: Copy) -> str:
        uploader = self._storage.uploader
        upload = Upload(copy.remote_name, self._content, is_found=True)
        try:
            return verify_upload(uploader, upload, self._lease.progress)
        except (FileNotFoundError, VerificationError):  # it is sent again
            return ""

    def _sent(self, copy: Copy) -> str:
        storage = self._storage
        record = _CopyRecord(copy.place)
        claim = _CopyClaim(self._lease, at_copy(self._row, copy), record)
        with self._source.opened() as file:
            return sent(storage, claim, file)

    @property
    def _content(self) -> Content:
        return Content(self._row.size, self._row.checksum)


class _CopyClaim:
    """The claim on a file, under which a further copy of it is uploaded."""

    def __init__(self, lease: Lease, row: QueuedFile, record: "_CopyRecord") -> None:
        self.row = row  # as if the copy were its first one
        self.ledger = record
        self.progress = lease.progress
        self.moved = lease.moved
        self.require = lease.require
        self.confirm = lease.confirm
        self.lose = lease.lose
        self._lease = lease

    @property
    def sent(self) -> int:
        return self._lease.sent


class _CopyRecord:
    """Records the object of a further copy, in the ways of ``ObjectRecord``."""

    def __init__(self, place: int) -> None:
        self._place = place

    def mark_tried(self, row: QueuedFile) -> int:
        return copies().reserve(row, self._place, row.remote_name)

    def reserve_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        return copies().reserve(row, self._place, remote_name)

    def record_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        return copies().record(row, self._place, remote_name)

    def release_remote_name(self, row: QueuedFile) -> int:
        return copies().disown(row, self._place)
