"""When local files were last read, without a write for each read."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows has no such module

from django.core.files.storage import Storage

from .localfiles import has_paths

TOUCH_AFTER = 3600.0  # seconds after which the next read of a file is recorded


def note(target: int | str) -> None:
    """Record that a local file is read: its path, or the number of the open file.

    Its access time is set at most once an hour, since many file systems don't do that for each
    read. Nothing is recorded if this user may not do so.
    """
    with suppress(OSError):
        found = os.stat(target)
        if _seconds_since(found.st_atime) > TOUCH_AFTER:
            now = time.time_ns()  # noqa: TID251  # a time of the file system, not of the ledger
            os.utime(target, ns=(now, found.st_mtime_ns))


def note_open(file: Any) -> None:
    """Record that an open file is read, if it is a file of this machine."""
    with suppress(AttributeError, OSError, ValueError):  # the last: it is closed
        note(file.fileno())


def last_read(storage: Storage, name: str) -> float | None:
    """Return when a local file was last read or saved, in seconds since 1970; None if the storage
    does not know. ``OSError`` is raised if there is no such file."""
    if has_paths(storage):
        return os.stat(storage.path(name)).st_atime
    try:
        return storage.get_accessed_time(name).timestamp()
    except NotImplementedError:  # which Django raises for a storage that does not know
        return None


def is_younger(read: float, seconds: float) -> bool:
    """Return whether a file that was last read at that time was so within these seconds."""
    return _seconds_since(read) < seconds


def _seconds_since(moment: float) -> float:
    return time.time() - moment  # noqa: TID251  # a time of the file system, not of the ledger


def is_open(storage: Storage, name: str) -> bool:
    """Return whether a process of this machine has a local file open, as far as the system tells.

    Linux gives a process a lease on a file only while no other process has it open. It is returned
    at once; a process that opens the file at that very moment waits for that.
    """
    if not (has_paths(storage) and hasattr(fcntl, "F_SETLEASE")):
        return False
    try:
        file = os.open(storage.path(name), os.O_RDONLY)
    except OSError:
        return False
    try:
        # By default the signal that the lease is wanted back ends the process; this one does not.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # another user's file, or a file system without leases
        return False
    finally:
        os.close(file)
    return False
