"""Keeps the directory of the read cache within its limit."""

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import IO, Any

from django.core.files import locks

PART_SUFFIX = ".part"  # of copies that are still being written
IN_USE_PREFIX = "path-"  # of directories with links to copies, for readers that need a path
_COPY = re.compile(r"[0-9a-f]{64}")
_LEFT_BEHIND = 24 * 3600  # seconds


class CacheDirectory:
    """The directory, which all processes of this host share.

    A copy is written to a part, which its writer locks and renames once it is whole. A part that
    no process locks was left by one that died. A part has its whole size from the start, so all
    processes together stay within the limit.
    """

    def __init__(self, location: Path, limit: int) -> None:
        self.location = location
        self.limit = limit  # bytes

    def create(self) -> None:
        """Make the directory; raise ``PermissionError`` if others could put copies into it.

        What is in the directory is served as it is, so it must be this user's alone.
        """
        with contextlib.suppress(FileExistsError):  # what is there may be something else
            self.location.mkdir(mode=0o700, parents=True)
        found = self.location.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{str(self.location)!r} is not a directory, but maybe a link.")
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            raise PermissionError(
                f"The directory {str(self.location)!r} belongs to another user. Set LOCATION to a "
                f"directory of the user that runs this process."
            )
        # Others may list it: each file in it is readable by this user only.
        if os.name == "posix" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                f"Other users can write to the directory {str(self.location)!r}. Run 'chmod 700' "
                f"on it."
            )

    def make_room(self, part: IO[bytes], own: Path, size: int) -> bool:
        """Take ``size`` bytes of the limit for a part, and delete the oldest copies for that.

        Returns False if parts of other processes leave no room.
        """
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
        """Return the copies, the oldest last, and the size of all files but the own part."""
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
        """Remove what processes that died left behind."""
        for path in self.location.iterdir():
            if path.suffix == PART_SUFFIX and path != own:
                if part := locked(path):
                    with part:
                        path.unlink(missing_ok=True)
            elif path.name.startswith(IN_USE_PREFIX) and _is_left_behind(path):
                shutil.rmtree(path, ignore_errors=True)


def locked(path: Path) -> IO[bytes] | None:
    """Open and lock a part, new or left behind; None if another process is writing it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        part = os.fdopen(descriptor, "r+b")
        if not locks.lock(part, locks.LOCK_EX | locks.LOCK_NB):
            part.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return part
        part.close()  # it was removed or completed before it was locked


def _is_left_behind(directory: Path) -> bool:
    """Return whether no process uses a directory with a link to a copy: a process that does has
    the copy open, with a lock on it."""
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
