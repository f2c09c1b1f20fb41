"""Writes new files to the local storage: whole, under a free name, or not at all."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage

from ..conf import settings
from .flushing import flush_file
from .localfiles import (
    discard,
    flush_entry,
    has_paths,
    is_unfinished,
    link,
    replace,
    unfinished_name,
)

# A storage class with other methods than these does something in its own way. Storages implement
# _save() and _open(), as Django documents, so whether they do shows in nothing else.
_SAVE, _AVAILABLE = Storage.save, Storage.get_available_name
_DELETE = FileSystemStorage.delete


@contextlib.contextmanager
def new_file(storage: Storage, name: str, content: File) -> Iterator["NewFile"]:
    """Write the bytes of a file that is to be called ``name`` or similarly.

    In the block the file takes one name after the other until one is free. A block that ends with
    an exception leaves nothing behind.
    """
    file = (_Draft if has_paths(storage) else _Direct)(storage, name, content)
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):
            file.give_up_name()
        raise
    finally:
        file.clean_up()


class NewFile(ABC):
    """The bytes of a new file, which have at most one name at a time."""

    size: int | None = None  # bytes on the disk, where there is one

    @property
    def can_wait(self) -> bool:
        """Whether the bytes can be kept under a hidden name."""
        return False

    @property
    @abstractmethod
    def readable_name(self) -> str:
        """The name under which the bytes can be read now."""

    @abstractmethod
    def take(self, name: str) -> str | None:
        """Give up the previous name, and become visible under this one; None if it is taken.

        Returns the name that the storage chose, if it chooses names itself.
        """

    def keep_name(self) -> bool:
        """Take the name again if another process has removed the file; return whether it had."""
        return False

    def take_over(self, name: str) -> None:
        """Replace the file of this name, which was found to have the same bytes.

        Only after ``take()`` returned None, which it never does for a storage without paths.
        """
        raise NotImplementedError  # a storage without paths never gets here

    def wait_as(self, hidden: str) -> None:
        """Give up the name, and wait under a hidden one. Only if ``can_wait``."""
        raise NotImplementedError  # ``can_wait`` is False

    @abstractmethod
    def give_up_name(self) -> None:
        """Become invisible."""

    def clean_up(self) -> None:
        """Remove the unfinished file."""


class _Draft(NewFile):
    """A new file that is written under an unfinished name, which stays until a name is settled.

    So what a full disk or a failing source leaves half written is never visible, its removal
    cannot affect another file, and a source that can be read once suffices for any number of
    names.
    """

    def __init__(self, storage: Storage, name: str, content: File) -> None:
        self._storage = storage
        self._fsync = settings.fsync
        self._draft = unfinished_name(name)
        self._is_hidden = True  # False if the storage names files itself
        self._path = ""
        self._name: str | None = None
        self._named_path = ""  # of that name
        try:
            asked, self._draft = self._draft, _write(storage, self._draft, content)
            self._is_hidden = self._draft == asked or is_unfinished(self._draft)
            self._path = storage.path(self._draft)
            if self._fsync:
                flush_file(self._path)
            self._identity = os.stat(self._path)
            self.size = self._identity.st_size
        except BaseException:
            self.clean_up()
            raise

    def take(self, name: str) -> str | None:
        is_first = self._name is None
        self.give_up_name()
        if is_first and not self._is_hidden:
            # A storage that names files by their content: another file may share this one.
            self._name = self._draft
            if self._fsync:
                flush_entry(self._storage, self._name)
            return self._name
        path = self._storage.path(name)
        if not _claim(self._storage, self._path, path, name, fsync=self._fsync):
            return None
        self._name, self._named_path = name, path
        return name

    def keep_name(self) -> bool:
        name = self._name
        if name is None or name == self._draft or self._is_mine():
            return False
        return link(self._path, self._named_path)

    def take_over(self, name: str) -> None:
        replace(self._storage, self._draft, name)

    @property
    def can_wait(self) -> bool:
        return self._is_hidden

    @property
    def readable_name(self) -> str:
        return self._name or self._draft

    def wait_as(self, hidden: str) -> None:
        self.give_up_name()
        replace(self._storage, self._draft, hidden)

    def give_up_name(self) -> None:
        name, self._name = self._name, None
        if name is None or name == self._draft or not self._is_mine():
            return
        # A writer that opened the name may replace the file at this moment, so the file is renamed
        # before it is removed.
        aside = self._storage.path(unfinished_name(name))
        os.rename(self._named_path, aside)
        if os.path.samestat(os.stat(aside), self._identity):
            os.replace(aside, self._path)  # does nothing to two names of one file
        else:
            link(aside, self._named_path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)

    def _is_mine(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._named_path), self._identity)
        except FileNotFoundError:
            return False

    def clean_up(self) -> None:
        if not self._is_hidden:
            return
        if self._path and type(self._storage).delete is _DELETE:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        else:
            discard(self._storage, self._draft)


class _Direct(NewFile):
    """A new file of a storage without paths, which is written under its final name at once."""

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

    @property
    def readable_name(self) -> str:
        return self._name or ""

    def give_up_name(self) -> None:
        if self._name is not None:
            self._storage.delete(self._name)


def _write(storage: Storage, draft: str, content: File) -> str:
    """Save the draft without checking its random name, which ``save()`` would do."""
    is_plain = type(storage).save is _SAVE and type(storage).get_available_name is _AVAILABLE
    if is_plain and "save" not in vars(storage):
        # Django documents _save() for authors of storages.
        return str(storage._save(draft, content))  # type: ignore[attr-defined]  # not in its stubs
    return storage.save(draft, content)


def _claim(storage: Storage, draft_path: str, path: str, name: str, *, fsync: bool) -> bool:
    """Make the finished draft visible as ``name`` too; return False if that name is taken."""
    if not link(draft_path, path):
        return False
    if fsync:
        try:
            flush_entry(storage, name)
        except BaseException:
            discard(storage, name)
            raise
    return True
