"""Sends a transferred file to a further remote, from wherever its bytes are."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage

from ..exceptions import LocalFileChanged, VerificationError
from ..files import presence
from ..files.streams import MeasuredFile, PiecewiseFile, Stored, checksum_of
from ..ledger.models import QueuedFile
from ..ledger.states import Content, is_reachable_from_here
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..uploaders import CannotCopy
from .claims import UploadClaim
from .copies import is_copy, verify_upload
from .parts import TransferringStorage
from .proxies import LocalProxy, RemoteProxy, WatchedFile
from .writers import PlaceMarker

IN_MEMORY = 1024 * 1024  # bytes of a file that is not written to the disk on its way
Throttle = Callable[[int], object]  # is called with each number of bytes that were read
# A storage with the remote that a copy is at, and the row as if the copy were the first one
Located = tuple[TransferringStorage, QueuedFile]


def sent(storage: TransferringStorage, claim: UploadClaim, file: File) -> str:
    """Send the file of a claim to the storage's own remote, and verify it there; return the level
    that was reached."""
    uploader = storage.uploader
    marker = PlaceMarker(storage)
    proxy = RemoteProxy(storage.remote, claim, uploader, marker)
    row = claim.row
    try:
        proxy.save(row.name, file)
        assert proxy.upload
        content = proxy.upload.content
        if content.size != row.size or (row.checksum and content.checksum != row.checksum):
            raise LocalFileChanged(f"{row.name!r} was changed while it was copied.")
        verified = verify_upload(uploader, proxy.upload, claim.progress)
    finally:
        proxy.settle()
    marker.write()
    return verified


class Source:
    """The bytes of a transferred file: those of its local copy if that is whole, else those of the
    first of the given remotes that has them.

    ``VerificationError`` is raised if none has the bytes of the ledger.
    """

    def __init__(
        self,
        row: QueuedFile,
        copies: Sequence[Located],
        claim: UploadClaim,
        throttle: Throttle | None = None,
    ) -> None:
        self._row = row
        self._copies = copies
        self._claim = claim
        self._throttle = throttle

    @contextmanager
    def opened(self) -> Iterator[File]:
        """Open the file on this machine: the local copy, or a temporary file."""
        row = self._row
        storage, _row = self._copies[0]
        if row.is_local and is_reachable_from_here(row.host) and self._is_whole_here(storage):
            with LocalProxy(storage.local, self._claim).open(row.name) as file:
                yield _Throttled(file, self._throttle) if self._throttle else file
            return
        if row.size <= IN_MEMORY:
            file = self._downloaded_from_any(self._read)
            yield WatchedFile(file, row.name, self._claim.progress)
            return
        with tempfile.TemporaryDirectory(prefix="queued-storage-") as directory:
            place = FileSystemStorage(directory)
            self._downloaded_from_any(partial(self._save, place))
            with LocalProxy(place, self._claim).open(row.name) as file:
                yield file

    def _is_whole_here(self, storage: TransferringStorage) -> bool:
        return presence.exists(storage.local, self._row.name) and is_copy(storage, self._row)

    def _downloaded_from_any(self, read: Callable[[Located], File]) -> File:
        *others, last = self._copies
        for located in others:
            try:
                return read(located)
            except Exception as error:
                self._claim.require()
                text = reason(error, located[0].remote)
                logger.warning("%s is read from another copy: %s", self._row, text)
        return read(last)

    def _read(self, located: Located) -> File:
        storage, row = located
        uploader = storage.uploader
        if row.checksum:  # which is compared
            data = uploader.read_small(row.remote_name, row.size)
        else:
            data = b"".join(uploader.read_back(row.remote_name))
        self._tick(len(data))
        found = checksum_of([data])
        _require_bytes(located, Content(found.size, str(found)))
        return ContentFile(data, row.name)

    def _save(self, place: FileSystemStorage, located: Located) -> File:
        storage, row = located
        pieces = PiecewiseFile(storage.uploader.read_back(row.remote_name), row.name)
        measured = MeasuredFile(pieces, row.name, self._tick)
        place.delete(row.name)  # what was read of another copy
        place.save(row.name, measured)
        _require_bytes(located, measured.content)
        return measured

    def _tick(self, count: int) -> None:
        if self._throttle:
            self._throttle(count)
        self._claim.progress()


def _require_bytes(located: Located, found: Content) -> None:
    storage, row = located
    if found.size != row.size or (row.checksum and found.checksum != row.checksum):
        raise VerificationError(
            f"The remote {storage.remote_place.description} has {found.size:,} bytes with the "
            f"checksum {found.checksum} under {row.remote_name!r}, but the ledger has "
            f"{row.size:,} bytes with {row.checksum or 'no checksum'}. Nothing was copied."
        )


class ObjectFile(WatchedFile):
    """A file whose object is to be copied by the server. It cannot be read: ``CannotCopy``."""

    def __init__(self, stored: Stored, name: str, claim: UploadClaim) -> None:
        super().__init__(ContentFile(b""), name, lambda position: claim.progress())
        self.stored = stored

    def read(self, *args: Any) -> NoReturn:
        raise CannotCopy


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
