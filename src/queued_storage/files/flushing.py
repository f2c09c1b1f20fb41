"""Flushes files to the disk, so that they survive a power cut."""

import contextlib
import os


def flush_file(path: str) -> None:
    """Flush the bytes of a file."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_directories(path: str, levels: int) -> None:
    """Flush the entry of a file in its directory, and the entries of its directories.

    Another process may have made a directory a moment ago, so the ``levels`` from the file up to
    the storage's own directory are flushed, and its parent.
    """
    if os.name != "posix":  # elsewhere directories cannot be opened
        return
    directory = os.path.dirname(path)
    for _level in range(levels):
        flush_file(directory)
        directory = os.path.dirname(directory)
    with contextlib.suppress(PermissionError):  # that directory need not be readable
        flush_file(directory)
