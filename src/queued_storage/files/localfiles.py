"""What a local storage can do, and changes of its files that are whole or do not happen."""

import contextlib
import errno
import io
import os
import posixpath
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage

from ..conf import settings
from ..ledger.names import RESERVED_PREFIX, extension_of, is_reserved
from .flushing import flush_directories, flush_file
from .reopening import StoredFile

UNFINISHED_PREFIX = RESERVED_PREFIX
MAX_NAMES = 100  # names that a new file tries


# What a local storage can do


def has_paths(storage: Storage) -> bool:
    """Return whether the storage's files are files of this machine, which can be linked."""
    return isinstance(storage, FileSystemStorage)


def moves_files(storage: Storage) -> bool:
    """Return whether the storage takes an uploaded temporary file by moving it, unchanged."""
    return has_paths(storage) and _has_own(storage, ("_save", "_open"))


def opens_paths(storage: Storage) -> bool:
    """Return whether a file of the storage is the file at its path, and nothing but that."""
    return has_paths(storage) and _has_own(storage, ("open", "_open", "exists", "size"))


def _has_own(storage: Storage, methods: tuple[str, ...]) -> bool:
    """Return whether these methods are Django's own, which tests and tools may replace later."""
    cls: Any = type(storage)
    replaced = vars(storage)
    return all(
        getattr(cls, method) is _OWN[method] and method not in replaced for method in methods
    )


_OWN = {
    method: getattr(FileSystemStorage, method)
    for method in ("open", "_open", "_save", "exists", "size")
}


def is_as_on_disk(file: File) -> bool:
    """Return whether reading an open file of a storage with paths returns the bytes on the disk."""
    return type(file) in (File, StoredFile) and isinstance(file.file, io.BufferedReader)


def is_directory(storage: Storage, name: str) -> bool:
    return has_paths(storage) and os.path.isdir(storage.path(name))


# Unfinished files


def unfinished_name(name: str) -> str:
    """Return a name beside ``name`` for bytes that are not visible yet."""
    directory, file_name = posixpath.split(name)
    unique = f"{UNFINISHED_PREFIX}{secrets.token_hex(8)}{extension_of(file_name)}"
    return posixpath.join(directory, unique)


def is_unfinished(name: str) -> bool:
    return is_reserved(name)


def discard(storage: Storage, name: str) -> None:
    """Delete a file that may exist, while another error is being handled."""
    with contextlib.suppress(OSError):
        storage.delete(name)


def replace(storage: Storage, draft: str, name: str) -> None:
    """Let ``draft`` take the place of ``name``, atomically where the storage has paths."""
    if not has_paths(storage):
        storage.delete(name)
        with storage.open(draft) as content:
            save_as(storage, name, content)
        storage.delete(draft)
        return
    path, fsync = storage.path(draft), settings.fsync
    if fsync:
        flush_file(path)
    os.replace(path, storage.path(name))
    if fsync:
        flush_entry(storage, name)


@contextlib.contextmanager
def replacing(storage: Storage, draft: str, name: str) -> Iterator[Callable[[], None]]:
    """Provide a function that lets ``draft`` take the place of ``name``, which the ledger does not
    know; a block that ends with an exception puts back what was there."""
    old = unfinished_name(name)
    was_there = is_replaced = False

    def put_in_place() -> None:
        nonlocal was_there, is_replaced
        was_there = _keep(storage, name, old)
        is_replaced = True
        replace(storage, draft, name)

    try:
        yield put_in_place
    except BaseException:
        if is_replaced and was_there:
            replace(storage, old, name)
        elif is_replaced:
            discard(storage, name)
        raise
    finally:
        if was_there:
            discard(storage, old)


def _keep(storage: Storage, name: str, hidden: str) -> bool:
    """Give a file a hidden name as well; return False if there is no such file."""
    try:
        if has_paths(storage):
            return link(storage.path(name), storage.path(hidden))
        if not storage.exists(name):
            return False
        with storage.open(name) as content:
            save_as(storage, hidden, content)
    except FileNotFoundError:
        return False
    return True


def save_as(storage: Storage, name: str, content: File) -> None:
    """Save a file under exactly this name."""
    saved = storage.save(name, content)
    if saved != name:
        discard(storage, saved)
        raise FileExistsError(
            f"{type(storage).__name__} saved {name!r} as {saved!r}. A local storage that chooses "
            f"names itself cannot replace files: use save() instead of open(name, 'wb')."
        )


def flush_entry(storage: Storage, name: str) -> None:
    """Make the entry of a file in its directory, and new directories, survive a power failure."""
    flush_directories(storage.path(name), levels=name.count("/") + 1)


def link(source: str, target: str) -> bool:
    """Give a file a second name; return False if that name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        return _move(source, target)  # a file system without hard links
    return True


def _move(source: str, target: str) -> bool:
    """Give a file another name; return False if that name is taken."""
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
