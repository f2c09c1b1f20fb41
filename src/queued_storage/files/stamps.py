"""Tell whether a local file was written to, and read one while others may write to it."""

import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, Self

from django.core.files.storage import Storage

from ..exceptions import LocalFileChanged
from ..ledger.states import Content
from . import localfiles
from .streams import Checksum

MAX_READS = 3  # of a file that changes while it is read
SETTLED_AFTER = 2_000_000_000  # nanoseconds; the coarsest time of a file system in use


class Stamp(NamedTuple):
    """What differs after a file was written to, replaced, or given other times."""

    inode: int
    size: int  # as the storage reports it
    modified: object
    changed: int  # in nanoseconds; no program can set it. 0 for a storage without paths

    @classmethod
    def of_open(cls, file: Any) -> Self:
        """Return the stamp of an open file of this machine."""
        return cls.of(os.fstat(file.fileno()))

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def is_settled(self) -> bool:
        """Whether a write from now on will certainly change the stamp.

        The clock of a file system is coarse: two writes within one tick have the same time.
        """
        return 0 < self.changed < time.time_ns() - SETTLED_AFTER


def stamp_of(storage: Storage, name: str) -> Stamp | None:
    """Return the stamp of a file, or None if it does not exist."""
    try:
        if localfiles.has_paths(storage):
            # NFS asks the server for the times of a file when it is opened.
            with open(storage.path(name), "rb") as file:
                return Stamp.of_open(file)
        if not storage.exists(name):
            return None
        return Stamp(0, storage.size(name), modified_at(storage, name), 0)
    except (FileNotFoundError, NotADirectoryError):
        return None


def modified_at(storage: Storage, name: str) -> datetime | None:
    """Return when a file was last modified; None if the storage doesn't know."""
    try:
        return storage.get_modified_time(name)
    except NotImplementedError:  # as Django documents for a storage without times
        return None


def read_at_once(path: str, most: int) -> tuple[bytes, Stamp] | None:
    """Return the bytes of a file of this machine, and its stamp before they were read; None for a
    file of more than ``most`` bytes.

    At each system call the interpreter may switch to another thread, so this makes few of them.
    """
    with open(path, "rb", buffering=0) as file:
        stamp = Stamp.of_open(file)
        if stamp.size > most:
            return None
        data = file.read(stamp.size) if stamp.size else b""
        while len(data) < stamp.size and (piece := file.read(stamp.size - len(data))):
            data += piece
    return data, stamp


def read_unchanging(
    storage: Storage, name: str, progress: Callable[[], object] = lambda: None
) -> tuple[Content, Stamp]:
    """Read a file; return its size and checksum, and its stamp before and after it was read.

    Raises ``FileNotFoundError``, and ``LocalFileChanged`` if other programs keep writing to it.
    """
    for _read in range(MAX_READS):
        before = stamp_of(storage, name)
        if before is None:
            raise FileNotFoundError(f"The local file {name!r} does not exist.")
        checksum = Checksum()
        with storage.open(name) as file:
            for piece in file.chunks():
                checksum.add(piece)
                progress()
        if stamp_of(storage, name) == before:
            return Content(checksum.size, str(checksum)), before
    raise LocalFileChanged(f"The local file {name!r} is being written to. Try again later.")
