"""Has the disk keep a file, before anything says that it does."""

import contextlib
import os


def flush_file(path: str) -> None:
    """Have the disk keep the bytes of a file."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_directories(path: str, levels: int) -> None:
    """Have the disk keep the entry of a file in its directory, and those of the directories.

    Another process may have made a directory a moment ago, so all of the ``levels`` below the
    storage's own directory are flushed, and the one that holds the latter.
    """
    if os.name != "posix":  # elsewhere directories cannot be opened
        return
    directory = os.path.dirname(path)
    for _level in range(levels):
        flush_file(directory)
        directory = os.path.dirname(directory)
    with contextlib.suppress(PermissionError):  # that directory need not be readable
        flush_file(directory)
