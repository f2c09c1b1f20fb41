"""Tells what certainly does not exist from what could not be looked at."""

import contextlib
import errno
import os
from collections.abc import Iterator

from django.core.files.storage import Storage

from ..exceptions import LocalFileUnreadable
from .localfiles import has_paths

# Errors by which a file certainly does not exist: it, or a directory of its path, is not there, a
# directory of its path is a file, or the file system has no such long names
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


def exists(storage: Storage, name: str) -> bool:
    """Return whether the storage has the file.

    ``FileSystemStorage.exists()`` returns False for every error, for example if the directory may
    not be read. Here ``OSError`` is raised unless the file certainly does not exist.
    """
    if storage.exists(name):
        return True
    if has_paths(storage):
        is_there(storage.path(name))
    return False


def size_at(path: str) -> int | None:
    """Return the size of a file, by one system call; None if it certainly does not exist.

    The target of a link may be on a volume that is not mounted.
    """
    try:
        return os.path.getsize(path)
    except OSError as error:
        if error.errno not in ABSENT or is_there(path):
            raise
        return None
    except ValueError:  # a name that no file can have
        return None


@contextlib.contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Raise ``LocalFileUnreadable`` for an error that does not tell whether a file exists."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, LocalFileUnreadable):
        raise
    except OSError as error:
        if error.errno in ABSENT:
            raise
        raise LocalFileUnreadable(
            f"The local copy of {name!r} cannot be read: {error.strerror or error}."
        ) from error


def is_there(path: str) -> bool:
    """Return whether a path exists; raise ``OSError`` if that cannot be found out."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return False
    except ValueError:  # a name that no file can have
        return False
    return True
