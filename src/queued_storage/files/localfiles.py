"""Puts bytes on the local storage: under a name of their own, whole or not at all."""

import contextlib
import errno
import io
import os
import posixpath
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage

from ..conf import settings

UNFINISHED_PREFIX = ".queued-"
MAX_NAMES = 100  # tries to find a free name for a file

# What a storage has that does not do these in a way of its own
_SAVE, _AVAILABLE = Storage.save, Storage.get_available_name
_DELETE = FileSystemStorage.delete


def unfinished_name(name: str) -> str:
    """A name beside ``name`` for bytes that nobody may see yet."""
    directory, file_name = posixpath.split(name)
    extension = posixpath.splitext(file_name)[1]
    if len(extension.encode()) > 32:
        extension = ""
    return posixpath.join(directory, f"{UNFINISHED_PREFIX}{secrets.token_hex(8)}{extension}")


def is_unfinished(name: str) -> bool:
    return posixpath.basename(name).startswith(UNFINISHED_PREFIX)


def has_paths(storage: Storage) -> bool:
    """Whether the storage's files are files of this machine, which can be linked and renamed."""
    return isinstance(storage, FileSystemStorage)


def moves_files(storage: Storage) -> bool:
    """Whether an uploaded temporary file becomes the stored one by a mere move, as it is."""
    methods = ("_save", "_open")
    return has_paths(storage) and all(
        getattr(type(storage), method) is getattr(FileSystemStorage, method) for method in methods
    )


def is_as_on_disk(file: File) -> bool:
    """Whether an open file of a storage with paths gives the bytes that are on the disk."""
    return type(file) is File and isinstance(file.file, io.BufferedReader)


def is_directory(storage: Storage, name: str) -> bool:
    return has_paths(storage) and os.path.isdir(storage.path(name))


def names_on(storage: Storage, under: str = "") -> Iterator[str]:
    """The names of all files of a storage, in no order; of one with paths, a few at a time."""
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
    """The directories and the files, of which there may be very many. A link to a directory is
    not followed, since it may lead back."""
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


class NewFile(ABC):
    """The bytes of a new file, which take one name after the other until one is theirs.

    A block that ends with an exception leaves nothing behind.
    """

    size: int | None = None  # bytes on the disk, where there is one

    @abstractmethod
    def take(self, name: str) -> str | None:
        """Give up the name so far, and be visible under this one; None if that is taken.

        Returns the name the storage chose, where it does.
        """

    def take_over(self, name: str) -> None:
        """Be visible under this name in the place of a file that was found to have these very
        bytes. Only after ``take()`` found it taken."""
        # A storage without paths takes another name instead, so nobody gets here.
        raise NotImplementedError

    @abstractmethod
    def _give_up_name(self) -> None:
        pass

    def _clean_up(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exception_type is not None:
                with contextlib.suppress(OSError):
                    self._give_up_name()
        finally:
            self._clean_up()


def new_file(storage: Storage, name: str, content: File) -> NewFile:
    """Write the bytes of a file that is to be called ``name`` or similarly."""
    return (_Draft if has_paths(storage) else _Direct)(storage, name, content)


class _Draft(NewFile):
    """Written under an unfinished name, which stays until a name is settled.

    So what a full disk or a failing source leaves half written has never been visible, its removal
    cannot hit anybody else's file, and a source that can be read once suffices for any number of
    names.
    """

    def __init__(self, storage: Storage, name: str, content: File) -> None:
        self._storage = storage
        self._draft = unfinished_name(name)
        self._path = ""
        self._name: str | None = None
        try:
            self._draft = _write(storage, self._draft, content)
            self._path = storage.path(self._draft)
            _flush_file(self._path)
            self._identity = os.stat(self._path)
            self.size = self._identity.st_size
        except BaseException:
            self._clean_up()
            raise

    def take(self, name: str) -> str | None:
        is_first = self._name is None
        self._give_up_name()
        if is_first and not is_unfinished(self._draft):
            # A storage that names files by what is in them: another file may share this one.
            self._name = self._draft
            _flush_directories(self._storage, self._name)
            return self._name
        if not claim(self._storage, self._path, name):
            return None
        self._name = name
        return name

    def take_over(self, name: str) -> None:
        replace(self._storage, self._draft, name)

    def _give_up_name(self) -> None:
        name, self._name = self._name, None
        if name is None or name == self._draft or not self._is_mine(name):
            return
        # Somebody who opened the name for writing may replace it at this very moment, so it is
        # taken aside before it is removed.
        aside = self._storage.path(unfinished_name(name))
        os.rename(self._storage.path(name), aside)
        if os.path.samestat(os.stat(aside), self._identity):
            os.replace(aside, self._path)  # the same file: then both stay
        else:
            _link(aside, self._storage.path(name))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)

    def _is_mine(self, name: str) -> bool:
        try:
            return os.path.samestat(os.stat(self._storage.path(name)), self._identity)
        except FileNotFoundError:
            return False

    def _clean_up(self) -> None:
        if not is_unfinished(self._draft):
            return
        if self._path and type(self._storage).delete is _DELETE:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        else:
            discard(self._storage, self._draft)


class _Direct(NewFile):
    """For a storage without paths, which has to write under the final name, and may choose one."""

    def __init__(self, storage: Storage, name: str, content: File) -> None:
        self._storage = storage
        self._content = content
        self._name: str | None = None

    def take(self, name: str) -> str | None:
        old = self._name
        if old is None:
            self._name = self._save(name, self._content)
        else:
            with self._storage.open(old) as content:
                self._name = self._save(name, content)
            self._storage.delete(old)
        return self._name

    def _save(self, name: str, content: File) -> str:
        was_there = self._storage.exists(name)
        try:
            return self._storage.save(name, content)
        except BaseException:
            if not was_there:
                discard(self._storage, name)
            raise

    def _give_up_name(self) -> None:
        if self._name is not None:
            self._storage.delete(self._name)


def _write(storage: Storage, draft: str, content: File) -> str:
    """As ``storage.save()`` does, which looks first whether the name is free: a random one is."""
    is_plain = type(storage).save is _SAVE and type(storage).get_available_name is _AVAILABLE
    if is_plain and "save" not in vars(storage):
        return str(storage._save(draft, content))  # type: ignore[attr-defined]
    return storage.save(draft, content)


def claim(storage: Storage, draft_path: str, name: str) -> bool:
    """Make the finished draft visible as ``name`` too, unless there is such a file."""
    if not _link(draft_path, storage.path(name)):
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
        path = storage.path(draft)
        _flush_file(path)
        os.replace(path, storage.path(name))
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


def _flush_file(path: str) -> None:
    """Have the disk keep the bytes, where the setting asks for that."""
    if settings.fsync:
        _flush(path)


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
