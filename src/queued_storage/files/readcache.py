"""Keeps copies of remote files on this host."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from django.core.files import File, locks

from ..conf import settings
from ..exceptions import VerificationError
from ..ledger.models import QueuedFile
from ..reporting.logs import logger
from ..reporting.reasons import reason
from .cachespace import IN_USE_PREFIX, PART_SUFFIX, CacheDirectory, locked
from .streams import Checksum

PATIENCE = 10  # seconds without a byte after which another process is not waited for

Fetch = Callable[[], Iterator[bytes]]


class Copy(File):
    """A copy that is open for reading; it stays whole if the cache drops it meanwhile."""

    def __init__(self, file: IO[bytes], name: str, path: Path) -> None:
        super().__init__(file, name)
        self.path = path

    def link_directory(self) -> TemporaryDirectory[str]:
        """Make a directory for a link to the copy, on the same file system."""
        return TemporaryDirectory(
            prefix=IN_USE_PREFIX, dir=self.path.parent, ignore_cleanup_errors=True
        )


def opened(row: QueuedFile, fetch: Fetch) -> Copy | None:
    """Return a copy of the file, fetched now if there is none yet.

    None is returned without a cache, and where the file cannot be kept; read it from the remote
    then. Raises ``VerificationError`` if what was fetched differs from the ledger.
    """
    slot = slot_of(row)
    if slot is None or row.size > slot.directory.limit:
        return None
    try:
        return slot.opened(fetch)
    except _CacheError as error:
        logger.warning("The read cache is not used: %s", error)
        return None


def forget(row: QueuedFile) -> None:
    """Delete the copy on this host."""
    if slot := slot_of(row):
        with contextlib.suppress(OSError):
            slot.path.unlink()


def slot_of(row: QueuedFile) -> "Slot | None":
    """Return the place of the file's copy; None without a cache."""
    if not (given := settings.read_cache):
        return None
    return Slot(CacheDirectory(Path(given["LOCATION"]), int(given["MAX_BYTES"])), row)


class _CacheError(Exception):
    """The directory cannot be written, for example because the disk is full."""


@contextlib.contextmanager
def _cache_errors() -> Iterator[None]:
    """Distinguish errors of the cache from errors of the remote."""
    try:
        yield
    except OSError as error:
        raise _CacheError(reason(error)) from error


class Slot:
    """The place of one content in the cache: new content, or a new file, has another one."""

    def __init__(self, directory: CacheDirectory, row: QueuedFile) -> None:
        self.directory = directory
        self.row = row
        content = [row.alias, row.name, row.pk, row.generation, row.size, row.checksum]
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        self.path = directory.location / name
        self.part = self.path.with_suffix(PART_SUFFIX)

    def opened(self, fetch: Fetch) -> Copy | None:
        patience = _Patience(self.part)
        with _cache_errors():
            self.directory.create()
            while True:
                if copy := self._copy():
                    return copy
                if part := locked(self.part):
                    break
                if patience.is_over():
                    return None
                time.sleep(0.05)
        with part:
            return self._fetched(part, fetch)

    def _copy(self) -> Copy | None:
        """Open the copy, if it is there and whole."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != self.row.size:
            file.close()
            self.path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path)  # the least recently used copies are deleted first
        return self._in_use(file)

    def _fetched(self, part: IO[bytes], fetch: Fetch) -> Copy | None:
        """Fill the part and make it the copy; None if that is not possible."""
        with contextlib.ExitStack() as clean_up:
            clean_up.callback(self.part.unlink, missing_ok=True)
            with _cache_errors():
                if copy := self._copy():  # another process was faster
                    return copy
                if not self.directory.make_room(part, self.part, self.row.size):
                    return None
            if not _fill(part, self.row, fetch):
                return None
            with _cache_errors():
                part.flush()
                os.fsync(part.fileno())  # else a power cut may leave a file of this size only
                file = self.part.open("rb")
                self.part.replace(self.path)
            clean_up.pop_all()
        locks.unlock(part)
        return self._in_use(file)

    def _in_use(self, file: IO[bytes]) -> Copy:
        """Lock the open copy, which shows that links to it are not left behind."""
        locks.lock(file, locks.LOCK_SH)
        return Copy(file, self.row.name, self.path)


class _Patience:
    """How long another process is waited for: as long as it writes to its part."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._last_write = -1
        self._deadline = 0.0

    def is_over(self) -> bool:
        try:
            last_write = self._part.stat().st_mtime_ns
        except FileNotFoundError:
            last_write = 0
        if last_write != self._last_write:
            self._last_write = last_write
            self._deadline = time.monotonic() + PATIENCE
        return time.monotonic() > self._deadline


def _fill(part: IO[bytes], row: QueuedFile, fetch: Fetch) -> bool:
    """Write the file to its part; return whether its bytes are those in the ledger."""
    checksum = Checksum()
    for piece in fetch():
        checksum.add(piece)
        if checksum.size > row.size:
            break
        with _cache_errors():
            part.write(piece)
            part.flush()
    if checksum.size == row.size and row.checksum in {"", str(checksum)}:
        return True
    if not row.checksum:  # an adopted file, whose bytes were never read
        return False
    raise VerificationError(
        f"The remote returned {checksum.size} bytes of {row.name!r} with {checksum}, but "
        f"{row.size} bytes with {row.checksum} were sent."
    )
