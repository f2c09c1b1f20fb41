"""Walks through all files of a storage."""

import os
import posixpath
from collections.abc import Iterable, Iterator

from django.core.files.storage import Storage

from .localfiles import has_paths


def names_on(storage: Storage, under: str = "") -> Iterator[str]:
    """Yield the names of all files of a storage, in no order.

    Of a storage with paths, few are in memory at a time.
    """
    waiting = [under]
    while waiting:
        directory = waiting.pop()
        files: Iterable[str]
        if has_paths(storage):
            directories, files = _scan(storage.path(directory))
        else:
            directories, files = storage.listdir(directory)
        waiting += (posixpath.join(directory, name) for name in directories)
        yield from (posixpath.join(directory, name) for name in files)


def _scan(path: str) -> tuple[list[str], Iterator[str]]:
    """Return the directories and the files, of which there may be very many.

    A link to a directory is not followed, since it may lead back.
    """
    try:
        with os.scandir(path) as entries:
            directories = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return [], iter(())
    return directories, _files(path)


def _files(path: str) -> Iterator[str]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file():
                yield entry.name
