"""Copies of files that only the remote has, within a limit of bytes."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from django.core.files import File, locks

from ..conf import settings
from ..exceptions import VerificationError
from ..ledger.models import QueuedFile
from ..reporting.logs import logger
from ..reporting.reasons import reason
from .streams import Checksum

PATIENCE = 10  # seconds without a byte after which another process is no longer waited for
IN_USE_PREFIX = "path-"  # of directories with links to copies, for who needs a path
_PART = ".part"
_LEFT_BEHIND = 24 * 3600  # seconds
_COPY = re.compile(r"[0-9a-f]{64}")

Fetch = Callable[[], Iterator[bytes]]


class Copy(File):
    """A copy that is open for reading; it stays whole if the cache drops it meanwhile."""

    def __init__(self, file: IO[bytes], name: str, path: Path) -> None:
        super().__init__(file, name)
        self.path = path


def opened(row: QueuedFile, fetch: Fetch) -> Copy | None:
    """A copy of the file, fetched now if there is none yet; None where it cannot be kept, so that
    its reader has to turn to the remote.

    ``VerificationError`` is raised if what was fetched is not what the ledger says.
    """
    cache = _Cache.of_settings()
    if cache is None or row.size > cache.limit:
        return None
    try:
        return cache.opened(row, fetch)
    except _Unusable as error:
        logger.warning("The read cache is not used: %s", error)
        return None


def forget(row: QueuedFile) -> None:
    """Drop the copy on this host."""
    if cache := _Cache.of_settings():
        with contextlib.suppress(OSError):
            cache.path_of(row).unlink()


class _Unusable(Exception):
    """The directory cannot be written, say since the disk is full."""


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    """Tell trouble with the cache from trouble with the remote."""
    try:
        yield
    except OSError as error:
        raise _Unusable(reason(error)) from error


class _Cache:
    """A directory of copies, each named by what it is a copy of.

    A copy is written to a part, which is locked by who writes it and takes its own name when it is
    whole. A part that nobody locks was left by a process that died. What is written has its whole
    size from the start, so that all processes together stay within the limit.
    """

    def __init__(self, location: Path, limit: int) -> None:
        self.location = location
        self.limit = limit

    @classmethod
    def of_settings(cls) -> "_Cache | None":
        given = settings.read_cache
        return cls(Path(given["LOCATION"]), int(given["MAX_BYTES"])) if given else None

    def path_of(self, row: QueuedFile) -> Path:
        """The place of one content: new content, and a new file of the name, have another one."""
        content = [row.alias, row.name, row.pk, row.generation, row.size, row.checksum]
        return self.location / hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def opened(self, row: QueuedFile, fetch: Fetch) -> Copy | None:
        with _on_disk():
            self.location.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path_of(row)
        last_sign, patience = -1, 0.0
        while True:
            with _on_disk():
                if found := self._found(path, row):
                    return found
                if part := _locked(path.with_suffix(_PART)):
                    break
                sign = _last_write(path.with_suffix(_PART))
            if sign != last_sign:
                last_sign, patience = sign, time.monotonic() + PATIENCE
            elif time.monotonic() > patience:
                return None
            time.sleep(0.05)
        with part:
            return self._fetched(path, part, row, fetch)

    def _found(self, path: Path, row: QueuedFile) -> Copy | None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != row.size:
            file.close()
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # the least recently used go first
        return _in_use(file, row, path)

    def _fetched(self, path: Path, part: IO[bytes], row: QueuedFile, fetch: Fetch) -> Copy | None:
        with contextlib.ExitStack() as clean_up:
            clean_up.callback(path.with_suffix(_PART).unlink, missing_ok=True)
            with _on_disk():
                if found := self._found(path, row):  # somebody was quicker
                    return found
                if not self._make_room(part, path.with_suffix(_PART), row.size):
                    return None
            if not _fill(part, row, fetch):
                return None
            with _on_disk():
                part.flush()
                os.fsync(part.fileno())  # a power cut must not leave it whole by its size alone
                file = path.with_suffix(_PART).open("rb")
                path.with_suffix(_PART).replace(path)
            clean_up.pop_all()
        locks.unlock(part)
        return _in_use(file, row, path)

    def _make_room(self, part: IO[bytes], own: Path, size: int) -> bool:
        """Take ``size`` bytes of the limit for a part; others than the oldest copies stay."""
        with (self.location / ".lock").open("wb") as lock:
            locks.lock(lock, locks.LOCK_EX)
            self._clear_up(own)
            copies, used = self._copies_and_bytes(own)
            while used + size > self.limit and copies:
                _age, length, path = copies.pop()
                path.unlink(missing_ok=True)
                used -= length
            if used + size > self.limit:
                return False
            part.truncate(0)
            part.truncate(size)
            return True

    def _copies_and_bytes(self, own: Path) -> tuple[list[tuple[int, int, Path]], int]:
        """The copies, the oldest last, and how much they and the parts of others take."""
        copies, used = [], 0
        for entry in os.scandir(self.location):
            if entry.name == own.name or not entry.is_file():
                continue
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat()
                used += found.st_size
                if _COPY.fullmatch(entry.name):
                    copies.append((found.st_mtime_ns, found.st_size, Path(entry.path)))
        return sorted(copies, reverse=True), used

    def _clear_up(self, own: Path) -> None:
        """Remove what processes left behind that died."""
        for path in self.location.iterdir():
            if path.suffix == _PART and path != own:
                if part := _locked(path):
                    with part:
                        path.unlink(missing_ok=True)
            elif path.name.startswith(IN_USE_PREFIX) and _is_left_behind(path):
                shutil.rmtree(path, ignore_errors=True)


def _locked(path: Path) -> IO[bytes] | None:
    """The part, new or left behind, in our hands; None if somebody else is writing it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        part = os.fdopen(descriptor, "r+b")
        if not locks.lock(part, locks.LOCK_EX | locks.LOCK_NB):
            part.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return part
        part.close()  # it was removed or completed before we had it


def _in_use(file: IO[bytes], row: QueuedFile, path: Path) -> Copy:
    """As long as the copy is open, its lock tells that links to it are not left behind."""
    locks.lock(file, locks.LOCK_SH)
    return Copy(file, row.name, path)


def _last_write(part: Path) -> int:
    try:
        return part.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _fill(part: IO[bytes], row: QueuedFile, fetch: Fetch) -> bool:
    """Whether the remote gave what the ledger says."""
    checksum = Checksum()
    for piece in fetch():
        checksum.add(piece)
        if checksum.size > row.size:
            break
        with _on_disk():
            part.write(piece)
            part.flush()
    if checksum.size == row.size and row.checksum in {"", str(checksum)}:
        return True
    if not row.checksum:  # of an adopted file, whose bytes nobody has read
        return False
    raise VerificationError(
        f"The remote gave {checksum.size} bytes of {row.name!r} with {checksum}, but {row.size} "
        f"bytes with {row.checksum} were sent."
    )


def _is_left_behind(directory: Path) -> bool:
    """Whether a directory with a link to a copy is nobody's: who uses one has the copy open, and so
    a lock on it."""
    try:
        found = directory.stat()
        links = list(directory.iterdir())
        is_old = time.time() - found.st_mtime > _LEFT_BEHIND
        return is_old if not links else all(_is_unused(link, is_old) for link in links)
    except FileNotFoundError:
        return False


def _is_unused(link: Path, is_old: bool) -> bool:
    with link.open("rb") as file:
        is_link = os.fstat(file.fileno()).st_nlink > 1
        free: Any = locks.lock(file, locks.LOCK_EX | locks.LOCK_NB)
        return bool(free) and (is_link or is_old)
