"""Moves a transferred file from a previous remote to the present one."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage

from ..exceptions import LeaseLost, VerificationError
from ..files import presence
from ..files.streams import MeasuredFile, PiecewiseFile
from ..ledger.copies import Copy, CopyState, at_copy, copies, exchange
from ..ledger.models import QueuedFile
from ..ledger.states import Content, is_reachable_from_here
from . import destinations
from .copies import Upload, is_copy, verify_upload
from .leases import Lease
from .parts import TransferringStorage
from .proxies import LocalProxy, RemoteProxy, WatchedFile
from .writers import PlaceMarker

IN_MEMORY = 1024 * 1024  # bytes of a file that is not written to the disk on its way
Throttle = Callable[[int], object]  # is called with each number of bytes that were read


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
        self._source = storage.with_remote_of(row)
        self._row = row
        self._lease = lease
        self._throttle = throttle

    def run(self, *, is_kept: bool) -> None:
        storage, row = self._storage, self._row
        if self._source is storage:
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
        uploader = storage.uploader
        claim = _CopyClaim(self._lease, at_copy(self._row, copy), copy.place)
        marker = PlaceMarker(storage)
        proxy = RemoteProxy(storage.remote, claim, uploader, marker)
        with self._opened() as file:
            try:
                proxy.save(self._row.name, file)
                assert proxy.upload
                verified = verify_upload(uploader, proxy.upload, self._lease.progress)
            finally:
                proxy.settle()
        marker.write()
        return verified

    @property
    def _content(self) -> Content:
        return Content(self._row.size, self._row.checksum)

    # The bytes

    @contextmanager
    def _opened(self) -> Iterator[File]:
        """Open the file on this machine: the local copy if it is whole, else a temporary file with
        the bytes of the previous remote."""
        row, local = self._row, self._source.local
        if row.is_local and is_reachable_from_here(row.host) and self._is_whole_here():
            with LocalProxy(local, self._lease).open(row.name) as file:
                yield _Throttled(file, self._throttle) if self._throttle else file
            return
        if row.size <= IN_MEMORY:
            yield WatchedFile(self._downloaded(), row.name, self._lease.progress)
            return
        with tempfile.TemporaryDirectory(prefix="queued-storage-") as directory:
            place = FileSystemStorage(directory)
            self._download(place)
            with LocalProxy(place, self._lease).open(row.name) as file:
                yield file

    def _is_whole_here(self) -> bool:
        row = self._row
        return presence.exists(self._source.local, row.name) and is_copy(self._source, row)

    def _downloaded(self) -> File:
        measured = self._measured()
        file = ContentFile(b"".join(measured.chunks()), self._row.name)
        self._require_whole(measured.content)
        return file

    def _download(self, place: FileSystemStorage) -> None:
        measured = self._measured()
        place.save(self._row.name, measured)
        self._require_whole(measured.content)

    def _measured(self) -> MeasuredFile:
        row = self._row
        pieces = PiecewiseFile(self._source.uploader.read_back(row.remote_name), row.name)
        return MeasuredFile(pieces, row.name, self._tick)

    def _require_whole(self, found: Content) -> None:
        row = self._row
        if found.size != row.size or (row.checksum and found.checksum != row.checksum):
            raise VerificationError(
                f"The previous remote has {found.size:,} bytes with the checksum {found.checksum} "
                f"under {row.remote_name!r}, but the ledger has {row.size:,} bytes with "
                f"{row.checksum or 'no checksum'}. Nothing was moved."
            )

    def _tick(self, count: int) -> None:
        if self._throttle:
            self._throttle(count)
        self._lease.progress()


class _Throttled(WatchedFile):
    """A local file that is not read faster than allowed; it hides its path from uploaders."""

    def __init__(self, file: File, throttle: Throttle) -> None:
        super().__init__(file, file.name or "", self._wait)
        self._throttle = throttle
        self._read = 0

    def _wait(self, position: int) -> None:
        if position > self._read:
            self._throttle(position - self._read)
            self._read = position


class _CopyClaim:
    """The claim on a file, under which a further copy of it is uploaded."""

    def __init__(self, lease: Lease, row: QueuedFile, place: int) -> None:
        self.row = row  # as if the copy were its first one
        self.ledger = _CopyRecord(place)
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
        return copies().release(row, self._place)
