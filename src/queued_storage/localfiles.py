"""Puts bytes on the local storage: under a name of their own, whole or not at all."""

import contextlib
import errno
import os
import posixpath
from collections.abc import Callable

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage
from django.utils.crypto import get_random_string

from .conf import settings

UNFINISHED_PREFIX = ".queued-"
MAX_NAMES = 100  # tries to find a free name for a file


def unfinished_name(name: str) -> str:
    """A name beside ``name`` for bytes that nobody may see yet."""
    directory, file_name = posixpath.split(name)
    extension = posixpath.splitext(file_name)[1]
    if len(extension.encode()) > 32:
        extension = ""
    return posixpath.join(directory, f"{UNFINISHED_PREFIX}{get_random_string(16)}{extension}")


def is_unfinished(name: str) -> bool:
    return posixpath.basename(name).startswith(UNFINISHED_PREFIX)


def has_paths(storage: Storage) -> bool:
    """Whether the storage's files are files of this machine, which can be linked and renamed."""
    return isinstance(storage, FileSystemStorage)


def identity(storage: Storage, name: str) -> object:
    """What changes when another file takes the place of this one, as far as can be told."""
    if not has_paths(storage):
        return None
    try:
        found = os.stat(storage.path(name))
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def is_directory(storage: Storage, name: str) -> bool:
    return has_paths(storage) and os.path.isdir(storage.path(name))


def store(storage: Storage, name: str, content: File, other_name: Callable[[str], str]) -> str:
    """Write a new file, under ``name`` or, as long as that is taken, under another one.

    The bytes go to an unfinished name first: what a full disk or a failing source leaves half
    written has never been visible, its removal cannot hit anybody else's file, and a source that
    can be read once suffices for any number of names. A storage without paths has to write under
    the final name, and may choose another one.
    """
    if not has_paths(storage):
        return _store_directly(storage, name, content)
    draft = unfinished_name(name)
    try:
        written = storage.save(draft, content)
        if not is_unfinished(written):  # a storage that names files by what is in them
            _flush_file(storage, written)
            _flush_directories(storage, written)
            return written
        draft = written
        _flush_file(storage, draft)
        for _try in range(MAX_NAMES):
            if claim(storage, draft, name):
                return name
            name = other_name(name)
        raise FileExistsError(f"No free name was found for {name!r}.")
    finally:
        discard(storage, draft)


def _store_directly(storage: Storage, name: str, content: File) -> str:
    was_there = storage.exists(name)
    try:
        return storage.save(name, content)
    except BaseException:
        if not was_there:
            discard(storage, name)
        raise


def rename(storage: Storage, old: str, new: str) -> str | None:
    """Give a file another name; None, and nothing changed, if that is taken."""
    if has_paths(storage):
        if not claim(storage, old, new):
            return None
        try:
            storage.delete(old)
        except BaseException:
            discard(storage, new)
            raise
        return new
    with storage.open(old) as content:
        written = _store_directly(storage, new, content)
    storage.delete(old)
    return written


def claim(storage: Storage, draft: str, name: str) -> bool:
    """Make the finished ``draft`` visible as ``name`` too, unless there is such a file."""
    if not _link(storage.path(draft), storage.path(name)):
        return False
    try:
        _flush_directories(storage, name)
    except BaseException:
        discard(storage, name)
        raise
    return True


def _link(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        return _move(source, target)
    return True


def _move(source: str, target: str) -> bool:
    """For file systems that have none."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    try:
        os.replace(source, target)
    except BaseException:
        os.unlink(target)
        raise
    return True


def replace(storage: Storage, draft: str, name: str) -> None:
    """Let ``draft`` take the place of ``name``, at one instant where the storage has paths."""
    if has_paths(storage):
        _flush_file(storage, draft)
        os.replace(storage.path(draft), storage.path(name))
        _flush_directories(storage, name)
        return
    storage.delete(name)
    with storage.open(draft) as content:
        storage.save(name, content)
    storage.delete(draft)


def discard(storage: Storage, name: str) -> None:
    """Remove what may be there, when an error is being handled already."""
    with contextlib.suppress(OSError):
        storage.delete(name)


def _flush_file(storage: Storage, name: str) -> None:
    """Have the disk keep the bytes, where the setting asks for that."""
    if settings.fsync:
        _flush(storage.path(name))


def _flush_directories(storage: Storage, name: str) -> None:
    """The same for a file's entry in its directory, and for the directories' own entries.

    Another process may have made a directory a moment ago, so none is taken to be on the disk.
    """
    if not settings.fsync or os.name != "posix":  # elsewhere directories cannot be opened
        return
    directory = os.path.dirname(storage.path(name))
    for _level in range(name.count("/") + 1):
        _flush(directory)
        directory = os.path.dirname(directory)
    with contextlib.suppress(PermissionError):  # what holds the root need not be readable
        _flush(directory)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
